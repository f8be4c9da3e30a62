"""A table for readers, before it is written: cells, blocks and notes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from .names import NOT_RUN
from .units import EN_DASH

# A longer list of records is kept short on a page, and opened a part at a time by its script.
MOST_LINKED = 30


@dataclass(frozen=True)
class Cell:
    """One cell: a text, its error behind a plus-minus, a remark on it in round brackets, and the
    paper's printed value beside it.

    What its number is read from, for a page to link to: `runs`, ids of runs of the study, and
    `predictions`, files below results/published.
    """

    text: str
    error: str | None = None
    printed: str | None = None
    bold: bool = False
    remark: str | None = None
    runs: tuple[str, ...] = ()
    predictions: tuple[str, ...] = ()
    # A key that repeats the one above it: blank, but on a page that can be sorted.
    repeats: bool = False

    def __str__(self) -> str:
        return self.text

    @property
    def shown(self) -> str:
        """The text where rows stay in their order."""
        return "" if self.repeats else self.text

    def links(self, published: str) -> list[tuple[str, str]]:
        """(where, name) of what the number is read from, from a page beside the runs' folder.

        published: the way to results/published. A dash comes from nowhere.
        """
        if self.text == EN_DASH:
            return []
        of_runs = [(f"../runs/{run}/record.json", run) for run in self.runs]
        return of_runs + [(f"{published}/{file}", file) for file in self.predictions]

    def folded(self) -> tuple[str, str, str] | None:
        """The ids of many runs as what all begin and end with, and what differs, a line each.

        None where they are few.
        """
        if len(self.runs) <= MOST_LINKED or self.text == EN_DASH:
            return None
        start = os.path.commonprefix(self.runs)
        ends = [run[len(start) :][::-1] for run in self.runs]
        end = os.path.commonprefix(ends)[::-1]
        middle = "\n".join(run[len(start) : len(run) - len(end)] for run in self.runs)
        return start, end, middle


class Notes:
    """Remarks on rows of one table: each gets a letter where it first stands."""

    def __init__(self) -> None:
        self.letters: dict[str, str] = {}

    def mark(self, reasons: Sequence[str]) -> str:
        """The letters of the reasons."""
        for reason in reasons:
            self.letters.setdefault(reason, chr(ord("a") + len(self.letters)))
        return " ".join(self.letters[reason] for reason in reasons)

    def texts(self) -> list[str]:
        """The remarks, each behind its letter."""
        return [f"{letter}: {reason}." for reason, letter in self.letters.items()]


def of_run(cells: Sequence[Cell | str], row: Any) -> list[Cell | str]:
    """The cells, those with a text as read from the run of a row, if it has a record."""
    made = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
    if row.status == NOT_RUN:
        return [*made]
    return [replace(cell, runs=(row.run_id,)) if cell.text else cell for cell in made]


@dataclass(frozen=True)
class Block:
    """A grid under a heading of its own. `num_keys` columns on the left name the row.

    `prose` names further columns that hold words, and stand at the left of their column.
    `anchors`: an id for each row, for a page to link to; none where nobody does.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    num_keys: int
    heading: str | None = None
    prose: frozenset[str] = frozenset()
    anchors: Sequence[str] = ()

    def kinds(self, *, key: str, prose: str, number: str) -> list[str]:
        """For each column what a format writes for its kind."""
        return [
            key if index < self.num_keys else prose if column in self.prose else number
            for index, column in enumerate(self.columns)
        ]

    def cells(self) -> list[list[Cell]]:
        """The rows with every entry as a Cell; a key that repeats the one above it says so."""
        return self._cells

    @cached_property
    def _cells(self) -> list[list[Cell]]:
        grid: list[list[Cell]] = []
        above: list[str] = []
        for row in self.rows:
            cells = [entry if isinstance(entry, Cell) else Cell(entry) for entry in row]
            texts = [cell.text for cell in cells[: self.num_keys]]
            same = 0
            while same < min(self.num_keys - 1, len(above)) and texts[same] == above[same]:
                same += 1
            above = texts
            repeated = [replace(cell, repeats=True) for cell in cells[:same]]
            grid.append(repeated + cells[same:])
        return grid


@dataclass(frozen=True)
class Table:
    """A table: what readers see (blocks, caption, notes) and what programs read (data)."""

    name: str
    title: str
    caption: str
    blocks: Sequence[Block]
    notes: Sequence[str]
    data: pd.DataFrame = field(compare=False)

    @property
    def subject(self) -> str:
        """The title without its number, which LaTeX gives itself; first letter large."""
        subject = self.title.split(": ", 1)[-1]
        return subject[0].upper() + subject[1:]
