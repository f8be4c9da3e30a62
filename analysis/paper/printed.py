"""The paper's printed values, from analysis/paper/*.csv.

`row` names the cell by our ids: size/method for tables 2 to 4, size/method/setting for table 1.
`note` starts with V (read in the paper) or I (inferred) and holds the errata. Values that are only
recalled from memory are not in these files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from lomo.errors import UserError

from ..text.units import number

FOLDER = Path(__file__).parent
COLUMNS = ("table", "row", "column", "value", "unit", "page", "note")
FILES = (
    "table1_memory",
    "table2_throughput",
    "table3_superglue",
    "table4_hyperparameters",
    "figure2_shares",
    "figure3_lora_rank",
    "claims",
)


@cache
def printed(name: str) -> pd.DataFrame:
    """The values of one file as text, columns COLUMNS. Raises UserError for a broken file."""
    path = FOLDER / f"{name}.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(frame.columns) != COLUMNS:
        raise UserError("other columns than expected", where=str(path), allowed=", ".join(COLUMNS))
    if frame.duplicated(["row", "column"]).any():
        raise UserError("a value stands twice", where=str(path))
    return frame


def value_text(name: str, row: str, column: str) -> str | None:
    """The printed text of one cell, or None where the paper prints nothing."""
    frame = printed(name)
    found = frame.loc[(frame["row"] == row) & (frame["column"] == column), "value"]
    return None if found.empty else str(found.iloc[0])


def value(name: str, row: str, column: str) -> float | None:
    """The printed number of one cell in its printed unit, or None (also for OOM)."""
    text = value_text(name, row, column)
    try:
        return number(text)
    except ValueError:
        return None
