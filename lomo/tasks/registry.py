"""The registry of tasks: those of this repository, and those of installed packages behind them.

Nothing here imports torch or lm-eval: a plan asks whether a task can be used before any weight is
loaded.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from lomo.errors import UserError, nearest
from lomo.system.outside import check_point
from lomo.tasks.entry import outside, points
from lomo.tasks.layouts import READ_IN_PARTS
from lomo.tasks.prompt import check_prompt
from lomo.tasks.superglue import TASKS, files_of

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The ids of all tasks, those of other packages behind our own."""
    return list(dict.fromkeys([*TASKS, *points()]))


def check_name(task: str, *, where: str) -> None:
    """Raises UserError unless there is a task of that name whose entry and prompt can be used."""
    if task not in names():
        close = nearest(task, names())
        raise UserError(
            f"{task!r} is not one of its values",
            where=where,
            allowed=", ".join(names()),
            fix=f"did you mean {close!r}?"
            if close
            else "a task of your own is one YAML and one entry, see CONTRIBUTING.md",
        )
    _check(task)


@cache
def _check(task: str) -> None:
    if task in points():
        check_point(points()[task], own=TASKS, what="task")
    files = files_of(task)
    fields = None if task in READ_IN_PARTS else set(files.text_fields)
    check_prompt(prompt_of(task), task, files, fields)


def prompt_of(task: str) -> Path:
    """The YAML with a task's prompt."""
    return FOLDER / f"{task}.yaml" if task in TASKS else outside(task).prompt


def title_of(task: str) -> str:
    """What a task is called at the head of its columns. Raises UserError for an unknown one."""
    if task not in names():
        raise UserError(f"there is no task {task!r}", where="tasks", allowed=", ".join(names()))
    files = files_of(task)
    return files.title or files.folder
