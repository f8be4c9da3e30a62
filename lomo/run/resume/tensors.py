"""Tensors in a file: safetensors, written and read one at a time, and told by a hash; and state
dicts as JSON beside it.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

# What the format calls what we keep.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8
_PLAIN = (bool, int, float, str, type(None))  # as JSON keeps it
_READ_BYTES = 1 << 20


class Unkept(Exception):
    """A state that is not written, and why."""


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a file by name; each is read when it is asked for, into memory of its own.

    Raises SafetensorError or OSError for no such file.
    """

    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, framework="pt", device="cpu")

    def __getitem__(self, name: str) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError:
            raise KeyError(name) from None
        # What an optimizer keeps as it is would else hold the file, also once it is deleted.
        return tensor.clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.keys())

    def __len__(self) -> int:
        return len(self._file.keys())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, nan: bool = False) -> str:
    """Writes plain tensors of any device to a new file, down to the disk; its sha256.

    On the host there is never more than one that was elsewhere: all of a large model have no room.
    Raises Unkept for a NaN, unless `nan` lets it pass, and for a dtype that the format does not
    know; OSError.
    """
    # The largest elements first, so that each tensor is aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in _parts(order, tensors, nan):
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _parts(order: list[str], tensors: Mapping[str, Tensor], nan: bool) -> Iterator[Any]:
    header, end = {}, 0
    for name in order:
        tensor, start = tensors[name], end
        if tensor.dtype not in _NAMES:
            raise Unkept(f"{name} is of {tensor.dtype}")
        end += tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        host = tensors[name].detach().to("cpu").contiguous()
        if not nan and has_nan(host):
            raise Unkept(f"{name} holds a NaN")
        yield host.reshape(-1).view(torch.uint8).numpy()


def has_nan(tensor: Tensor) -> bool:
    """Whether an element is not a number."""
    return tensor.is_floating_point() and bool(torch.isnan(tensor).any())


def why_broken(path: Path, sha256: str) -> str | None:
    """Why a file can't be what was written with this hash, or holds what nobody goes on from."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    if digest.hexdigest() != sha256:
        return f"{path.name} is not what was written: it was cut or changed"
    try:
        tensors = TensorFile(path)
    except (SafetensorError, OSError) as error:
        return f"{path.name} cannot be read ({error})"
    return next((f"{name} holds a NaN" for name in tensors if has_nan(tensors[name])), None)


def settle_folder(folder: Path) -> None:
    """What was renamed in a folder outlives a crash of the machine, where its disk can promise."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class Part:
    """This rank's part of a tensor that is spread as its parameter is."""

    def __init__(self, local: Tensor) -> None:
        self.local = local

    def spread_as(self, parameter: Any) -> DTensor:
        """The whole, as `parameter` is spread."""
        return DTensor.from_local(
            self.local,
            parameter.device_mesh,
            parameter.placements,
            run_check=False,
            shape=parameter.shape,
            stride=parameter.stride(),
        )


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors`, under names that begin with `name`.

    Raises Unkept for what is neither a tensor, a number, a text nor made of them.
    """
    if isinstance(value, DTensor):
        tensors[name] = value.to_local()
        return {"part": name}
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        pairs = [[key, pack(inner, f"{name}/{key}", tensors)] for key, inner in value.items()]
        if any(type(key) not in (int, str) for key, _ in pairs):
            raise Unkept(f"{name} has a key that is neither a number nor a text")
        return {"pairs": pairs}
    if isinstance(value, list | tuple):
        items = [pack(inner, f"{name}/{i}", tensors) for i, inner in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if type(value) not in _PLAIN:
        raise Unkept(f"{name} is a {type(value).__name__}, which is not kept")
    return value


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What was packed. A tensor that was spread comes back as the Part of this rank."""
    if isinstance(packed, list):
        return [unpack(inner, tensors) for inner in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "part":
        return Part(tensors[content])
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack(inner, tensors) for inner in content)
    return {key: unpack(inner, tensors) for key, inner in content}
