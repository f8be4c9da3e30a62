"""Whether an offline W&B run stands on the disk to its end: where that is full, W&B says nothing.

Its file is a log as LevelDB writes them: a head, then chunks (checksum, size, kind) in blocks.
"""

from __future__ import annotations

import struct
from pathlib import Path

_HEAD, _BLOCK = 7, 32 * 1024  # bytes
_CHUNK = struct.Struct("<IHB")
_ALL, _FIRST, _LAST = 1, 2, 4  # kinds: a whole record, its first part, its last


def is_whole(folder: Path) -> bool:
    """Whether the run in `folder` has a file, and that ends with the run's exit."""
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    file = next(folder.glob("*.wandb"), None)
    last = _last_record(file.read_bytes()) if file else None
    if last is None:
        return False
    record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
    try:
        record.ParseFromString(last)
    except DecodeError:
        return False
    return bool(record.WhichOneof("record_type") == "exit")


def _last_record(log: bytes) -> bytes | None:
    """The last record of a log; None where it is cut, or holds none."""
    at, record, parts = _HEAD, None, b""
    while at < len(log):
        left = _BLOCK - at % _BLOCK
        if left < _CHUNK.size:  # zeros up to the next block
            at += left
            continue
        if at + _CHUNK.size > len(log):
            return None
        _, size, kind = _CHUNK.unpack_from(log, at)
        at += _CHUNK.size
        if at + size > len(log):
            return None
        parts = (b"" if kind in (_ALL, _FIRST) else parts) + log[at : at + size]
        at += size
        record = parts if kind in (_ALL, _LAST) else None
    return record
