"""Whole files or none: a file appears under its name only when it is complete."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lomo.system.files import whole


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write the lines, each ended by a newline. Raises UserError where the disk is full."""
    with whole(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(f"{line}\n" for line in lines)


def write_jsonl(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write one JSON object a line, as `write_lines` does."""
    write_lines(path, (json.dumps(record, ensure_ascii=False) for record in records))
