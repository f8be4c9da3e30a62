"""The paper's printed values, from analysis/paper/*.csv, and why a prediction differs from one.

`row` names the cell by our ids: size/method for tables 2 to 4, size/method/setting for table 1.
`note` starts with V (read in the paper) or I (inferred) and holds the errata. Values that are only
recalled from memory are not in these files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from lomo.errors import UserError

from ..text.names import PARTS, SUMMED_PARTS, listed
from ..text.units import GIB, number, percent
from .predictions import TERMS, Predicted

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


LARGE = 0.03  # a row that is further off says why
SDPA = (
    "the paper's code of June 2023 had eager attention, which keeps the scores of all heads for "
    "the backward; sdpa keeps none. The rows with eager attention are the paper's setting"
)
EAGER = (
    "today's modelling code keeps fewer activations than that of June 2023, and no key-value cache "
    "beside them. The other terms are within 0.01 GiB"
)
ERRATUM = (
    "the printed total is 1.00 GiB above the sum of its own columns; what the code of June 2023 "
    "keeps agrees with the printed activations, not with the total"
)
ZERO3 = (
    "ZeRO-3's buffers are a model of them, without communication (NCCL) and what else the paper's "
    "counter saw"
)
FSDP2 = (
    "FSDP2 is not the paper's engine: above a rank's share it holds three buffers of one layer "
    "each, gathered, prefetched and for the reduce-scatter, and none of a fixed size"
)
SINGLE = (
    "the paper ran under ZeRO-3 and its LOMO copies each gradient to 32 bits; this process does "
    "neither"
)
UNEXPLAINED = "not explained"
OOM = "the paper ran out of 24 GB here, so there is no number to compare with"


def difference(predicted_bytes: int | None, printed_gib: float | None) -> float | None:
    """(predicted - printed) / printed, or None where one is missing."""
    if predicted_bytes is None or not printed_gib:
        return None
    return GIB.of(predicted_bytes) / printed_gib - 1


def signed(fraction: float | None) -> str:
    """A difference in percent with its sign; an en dash where there is none."""
    sign = "+" if fraction is not None and round(100 * fraction, 1) > 0 else ""
    return sign + percent(fraction)


def printed_term(row: Predicted, part: str) -> float | None:
    """The printed term of Table 1 in GiB, or None where the paper has none in this setting."""
    setting = "checkpointed" if row.spec.activation_checkpointing else "plain"
    name = f"{row.paper_model}/{row.spec.method}/{setting}"
    return value("table1_memory", name, part) if row.comparable else None


def printed_peak(row: Predicted) -> str | None:
    """The printed peak as text, where devices are as many as the paper's."""
    name = f"{row.paper_model}/{row.spec.method}"
    same = value("table2_throughput", name, "num_devices") == row.spec.num_devices
    paper = row.comparable and row.spec.activation_checkpointing and same
    return value_text("table2_throughput", name, "peak") if paper else None


def printed_number(row: Predicted) -> float | None:
    """The printed peak in GiB, or None (also for OOM)."""
    printed = printed_peak(row)
    return None if printed in (None, "OOM") else float(printed or "nan")


def _unpredicted(row: Predicted) -> list[str]:
    if row.reason:
        return [row.reason.replace("\n", "; ").rstrip(".")]
    if row.unsupported:
        return [f"no simulation ({row.unsupported}): activations are by a formula"]
    return []


def why_memory(row: Predicted) -> list[str]:
    """Why a row of Table 1 is not predicted or is off by more than LARGE, and what is odd in print.

    [] where there is nothing to say.
    """
    reasons = _unpredicted(row)
    off = difference(row.term("total"), printed_term(row, "total"))
    if off is None:
        return reasons
    if abs(off) > LARGE:
        reasons.append(_why_terms(row))
    printed = [printed_term(row, part) or 0.0 for part in TERMS]
    return [*reasons, ERRATUM] if abs(printed[-1] - sum(printed[:-1]) - 1) < 0.02 else reasons


def _why_terms(row: Predicted) -> str:
    wide = [part for part in SUMMED_PARTS if abs(_gap_gib(row, part)) > 0.01]
    if wide != ["activations"] or row.is_june_2023:
        return f"{UNEXPLAINED}: terms that differ are {listed(PARTS[part] for part in wide)}"
    return SDPA if row.spec.attention == "sdpa" else EAGER


def _gap_gib(row: Predicted, part: str) -> float:
    return GIB.of(row.term(part) or 0) - (printed_term(row, part) or 0.0)


def why_throughput(row: Predicted) -> list[str]:
    """Why a row of Table 2 is not predicted, or is off by more than LARGE; [] where it is not."""
    reasons = _unpredicted(row)
    if printed_peak(row) == "OOM":
        reasons.append(OOM)
    off = difference(row.peak_bytes, printed_number(row))
    if off is None or abs(off) <= LARGE:
        return reasons
    known = {"zero3": ZERO3, "fsdp2": FSDP2, "single": SINGLE}
    return [*reasons, known[row.spec.engine]]
