"""Files of one JSON object a line, read so that whatever is wrong has its file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lomo.errors import UserError

# The longest line of SuperGLUE has 40 kB. One of a megabyte is a file without line breaks, and to
# split it into tokens would take minutes and gigabytes.
MAX_LINE_BYTES = 10**6

_MEND_LINE = "mend the line, or take it out"
_UNPACK = "unpack it: what is wanted is text, one JSON object a line"
_RECODE = "save it as UTF-8: iconv -f UTF-16 -t UTF-8"
# First bytes -> what the file is, and what to do.
_NO_JSONL: dict[bytes, tuple[str, str]] = {
    b"version https://git-lfs": (
        "a Git LFS pointer, not the file",
        "git lfs pull, in the repository that it is from",
    ),
    b"\xff\xfe": ("UTF-16 text, not UTF-8", _RECODE),
    b"\xfe\xff": ("UTF-16 text, not UTF-8", _RECODE),
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _UNPACK),
    b"PAR1": ("a parquet file", "datasets.Dataset.from_parquet(FILE).to_json(...)"),
    b"ARROW1": ("an arrow file", "datasets.Dataset.from_file(FILE).to_json(...)"),
    b"<": ("a page of HTML or XML", "fetch the file itself, not the page that shows it"),
}


class _TwiceError(Exception):
    """A key that stands twice in an object: to take either would be a guess."""


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of the file with where it stands (file:line); blank lines are left out.

    A byte-order mark of UTF-8 and Windows' line ends are no mistakes. Raises UserError for a file
    that is none of this kind or can't be read, and for a line that is no JSON object.
    """
    try:
        with path.open("rb") as file:
            _check_kind(path, file.read(64))
            file.seek(0)
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 2):
                number += 1
                where = f"{path}:{number}"
                if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                    raise UserError(
                        "the line is too long",
                        where=where,
                        allowed=f"at most {MAX_LINE_BYTES:,} bytes a line",
                        fix="write one object a line, and no longer text than a model can read",
                    )
                if line.strip():
                    yield where, _object(line, where)
    except OSError as error:
        raise UserError(
            f"can't be read ({error.strerror})",
            where=str(path),
            allowed="a file that you may read",
            fix="look at what lies there: ls -lL",
        ) from error


def broken_link(path: Path) -> str | None:
    """What `path` points to if that is not there; None for all else."""
    return str(path.readlink()) if path.is_symlink() and not path.exists() else None


def _check_kind(path: Path, head: bytes) -> None:
    found = next((kind for start, kind in _NO_JSONL.items() if head.startswith(start)), None)
    if found is None and b"\0" in head:
        only_zeros = not head.strip(b"\0")
        found = (
            ("only zero bytes: its content was never written", "fetch or write it again")
            if only_zeros
            else ("not UTF-8 text: UTF-16, or no text at all", _RECODE)
        )
    if found:
        raise UserError(
            f"the file is {found[0]}",
            where=str(path),
            allowed="UTF-8 text, one JSON object a line",
            fix=found[1],
        )


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        problem = f"the line is not UTF-8 text: byte {error.start + 1} is {line[error.start]:#x}"
        raise UserError(problem, where=where, fix=_MEND_LINE) from error
    except json.JSONDecodeError as error:
        problem = f"the line is not JSON: {error.msg} at character {error.pos + 1}"
        fix = _MEND_LINE
        if line.strip() in (b"{", b"["):
            fix = "write each object on one line: jq -c . FILE, or jq -c '.[]' FILE for a list"
        raise UserError(problem, where=where, fix=fix) from error
    except _TwiceError as error:
        raise UserError(
            f"the key {error.args[0]!r} stands twice in one object", where=where, fix=_MEND_LINE
        ) from error
    except RecursionError as error:
        raise UserError("the line is nested too deep", where=where, fix=_MEND_LINE) from error
    except ValueError as error:  # Python's limit to the digits of a number
        raise UserError(
            "the line holds a number of thousands of digits", where=where, fix=_MEND_LINE
        ) from error
    if not isinstance(data, dict):
        raise UserError(
            "the line is not a JSON object",
            where=where,
            allowed='{"field": value, ...}, one object a line',
            fix=_MEND_LINE,
        )
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found
