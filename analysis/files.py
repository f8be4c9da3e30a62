"""Bytes written whole or not at all (text: lomo.record), and the JSON lines beside a record."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lomo.errors import UserError


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` under a temporary name and renames it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, [] if there is none. Raises UserError for a broken line."""
    if not path.is_file():
        return []
    events = []
    for index, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UserError(
                f"line {index} is not JSON; the file was cut or edited",
                where=str(path),
                fix="delete its folder and run the pipeline again: only that run is repeated",
            ) from error
    return events
