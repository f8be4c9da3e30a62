"""What packages outside this repository add through entry points, found and checked.

Nothing is imported until somebody asks for it by name.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from lomo.errors import UserError

# A name stands in run ids, and so in paths and in Snakemake's wildcards.
NAME = r"[a-z0-9][a-z0-9_]*"
# The column behind the tasks of a table.
RESERVED = ("average",)


def by_name(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group, by name; more than one where packages clash."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for point in entry_points(group=group):
        if point not in found.get(point.name, ()):
            found[point.name] = (*found.get(point.name, ()), point)
    return found


def said_in(point: EntryPoint) -> str:
    """An entry point in words: its package, group, name and value."""
    package = f" of {point.dist.name}" if point.dist else ""
    return f"entry point{package}: [{point.group}] {point.name} = {point.value}"


def check_point(points: Sequence[EntryPoint], *, own: Collection[str], what: str) -> None:
    """Raises UserError for a name that is one of our `own`, that two packages give, or that can't
    stand in a run id."""
    point, *others = points
    if point.name in own:
        raise UserError(
            f"{point.name} is a {what} of this repository",
            where=said_in(point),
            fix="give the entry point another name, or uninstall its package",
        )
    if others:
        raise UserError(
            f"another package has a {what} of that name ({said_in(others[0])})",
            where=said_in(point),
            fix="rename one of them, or uninstall its package",
        )
    if not re.fullmatch(NAME, point.name) or point.name in RESERVED:
        raise UserError(
            f"{point.name!r} will not do as the name of a {what}",
            where=said_in(point),
            allowed=f"small letters, digits and underscores; not {', '.join(RESERVED)}",
        )


def imported(name: str, where: str) -> Any:
    """The module of an entry point. Raises UserError with the cause where it can't be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever another package's code raises
        raise UserError(
            f"{name} can't be imported: {type(error).__name__}: {error}",
            where=where,
            fix="mend or uninstall that package",
        ) from error
