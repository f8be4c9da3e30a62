"""What the paper leaves open and what is assumed here, and what is wrong in its print."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pandas as pd

from lomo.errors import UserError

from ..text.names import method_title
from .printed import FILES, FOLDER, printed

COLUMNS = ("question", "assumed", "stands_in", "note")


class Question(NamedTuple):
    """An open question, the answer that is assumed, the file of the repository that has it, and
    whether the question was read in a source (V) or inferred (I)."""

    question: str
    assumed: str
    stands_in: str
    note: str


@cache
def open_questions() -> tuple[Question, ...]:
    """The questions of open_questions.csv. Raises UserError for a broken file."""
    path = FOLDER / "open_questions.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(frame.columns) != COLUMNS:
        raise UserError("other columns than expected", where=str(path), allowed=", ".join(COLUMNS))
    return tuple(Question(*row) for row in frame.itertuples(index=False))


def errata() -> list[str]:
    """Each printed value that contradicts the others, and how, in the paper's order."""
    found = []
    for name in FILES:
        for cell in printed(name).itertuples():
            what, is_erratum, why = cell.note.partition("erratum: ")
            if is_erratum:
                size, method, *setting = cell.row.split("/")
                source = f"Table {cell.table}" if cell.table.isdigit() else cell.table.capitalize()
                told = ", ".join([f"{size} {method_title(method)}", *setting])
                label = f"{source}, {told}: {cell.column.replace('_', ' ')}"
                found.append(f"{label}: {cell.value} {cell.unit} is printed; {why}.")
    return found
