"""Edits of a record, and of the lines of a file beside it, as somebody might make them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

Edit = Callable[[dict[str, Any]], None]


def edit(results: Path, run_id: str, change: Edit) -> None:
    path = results / "runs" / run_id / "record.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def edit_lines(results: Path, run_id: str, name: str, change: Callable[[list[Any]], Any]) -> None:
    path = results / "runs" / run_id / name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = change(lines)
    lines = lines if changed is None else changed
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def at(*keys: Any, value: Any) -> Edit:
    """Sets one value of a record."""

    def change(record: dict[str, Any]) -> None:
        block: Any = record
        for key in keys[:-1]:
            block = block[key]
        block[keys[-1]] = value(block[keys[-1]]) if callable(value) else value

    return change


def both(*edits: Edit) -> Edit:
    def change(record: dict[str, Any]) -> None:
        for one in edits:
            one(record)

    return change


def better(record: dict[str, Any]) -> None:
    """The result and its evaluation, both alike."""
    record["result"]["value"] = record["evaluations"][-1]["value"] = 0.99


def earlier(record: dict[str, Any]) -> None:
    """The test evaluation says that it is of an epoch that was not the best."""
    for place in (record["result"], record["evaluations"][-1]):
        place["epoch"], place["step"] = 1, 19
    record["training"]["selected_epoch"] = 1


def as_a_failure(record: dict[str, Any]) -> None:
    record["status"] = "oom"


def without_a_training(record: dict[str, Any]) -> None:
    record["training"] = None
    record["missing"]["training"] = "nothing is trained"
