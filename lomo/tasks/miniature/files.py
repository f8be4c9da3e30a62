"""Whole files or none: a file appears under its name only when it is complete."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the lines, each ended by a newline, to a temporary name beside `path`, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in lines)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_jsonl(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line, as `write_lines` does."""
    write_lines(path, (json.dumps(record, ensure_ascii=False) for record in records))
