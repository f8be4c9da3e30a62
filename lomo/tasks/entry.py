"""What a task is beside its prompt: one entry, here or in a package outside this repository.

A package outside adds a task through the entry point group `lomo.tasks`. The entry point's name is
the task's; its value is a module with `TASK` (or `module:NAME`), and the prompt is the YAML of the
task's name beside that module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.system.outside import by_name, imported, said_in

GROUP = "lomo.tasks"


@dataclass(frozen=True)
class TaskFiles:
    """Where a task's lines lie and what each must hold.

    folder: inside the data folder; it holds train.jsonl and val.jsonl. labels: the label as it
    stands in the file -> index of the candidate in the task's YAML. passage: the field with which
    the prompt begins, and which loses its left end where all is too long; without one such an
    example is refused. together: the field whose documents stay together, in train or in dev.
    title: head of the task's columns; without one, the folder's name.
    """

    folder: str
    text_fields: tuple[str, ...]
    labels: dict[Any, int]
    passage: str | None = None
    together: str | None = None
    title: str = ""


@dataclass(frozen=True)
class Outside:
    """A task of another package: its entry, its prompt and its module."""

    files: TaskFiles
    prompt: Path
    module: str


@cache
def points() -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of installed packages, by the name of their task."""
    return by_name(GROUP)


@cache
def outside(task: str) -> Outside:
    """The task of that name in another package. Raises UserError for an entry that can't be used,
    KeyError where there is none."""
    point = points()[task][0]
    where = said_in(point)
    module = imported(point.value.partition(":")[0].strip(), where)
    name = point.value.partition(":")[2].strip() or "TASK"
    files = getattr(module, name, None)
    if not isinstance(files, TaskFiles):
        raise UserError(
            f"{module.__name__} has no entry {name}",
            where=where,
            allowed=f"{name} = lomo.tasks.entry.TaskFiles(folder, text_fields, labels)",
        )
    _check(files, f"{where}: {name}")
    prompt = Path(str(module.__file__)).with_name(f"{task}.yaml")
    return Outside(files, prompt, module.__name__)


def _check(files: TaskFiles, where: str) -> None:
    """Raises UserError for an entry that names no folder, field or label."""
    parts = Path(files.folder).parts
    if len(parts) != 1 or parts[0] in ("..", "/"):
        raise UserError(
            f"{files.folder!r} is no folder's name", where=where, allowed="a name without slashes"
        )
    fields = files.text_fields
    if isinstance(fields, str) or not fields or not all(isinstance(f, str) for f in fields):
        raise UserError(
            f"text_fields is {fields!r}", where=where, allowed="a tuple of the fields' names"
        )
    for name, field in (("passage", files.passage), ("together", files.together)):
        if field is not None and field not in fields:
            raise UserError(f"{name} is {field!r}", where=where, allowed=", ".join(fields))
    indices = sorted(set(files.labels.values())) if isinstance(files.labels, dict) else []
    if len(indices) < 2 or indices != list(range(len(indices))):
        raise UserError(
            f"labels is {files.labels!r}",
            where=where,
            allowed="each label as it stands in the file -> the index of its candidate, from 0",
        )
