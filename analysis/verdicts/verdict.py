"""One verdict: a printed value or claim, what was measured, and whether they agree."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..records.comparable import NOT_COMPARABLE, NOT_RUN
from ..text.names import status_text
from ..text.units import decimals

# Undecided: it was put to the test, and the error of what was measured leaves both answers open.
TESTED = REPRODUCED, DIFFERS, UNDECIDED = "reproduced", "differs", "undecided"
VERDICTS = (*TESTED, NOT_COMPARABLE, NOT_RUN)

# What a verdict stands on. Of a GPU, MEASURED_ON and its name.
MEASURED, PREDICTED, NEVER_RUN = "measured here", "predicted at full size", "never run"
MEASURED_ON = "measured on "


@dataclass(frozen=True)
class Verdict:
    """One printed value or claim and what became of it. `order`: a claim of which is larger.

    error: half of the 95 % interval of what was measured, in its unit, where it has one.
    basis: what it stands on; prediction: the file below results/published that it was read from.
    """

    source: str
    what: str
    printed: str
    measured: str | None
    tolerance: str | None
    verdict: str
    reason: str
    order: bool = False
    run_id: str = ""
    error: float | None = None
    basis: str = NEVER_RUN
    prediction: str = ""


def judge(printed: float, measured: float, tolerance: float) -> str:
    """reproduced if `measured` is within `tolerance` of `printed`, the boundary included."""
    # 1e-9: a difference of exactly the tolerance must not fail by a rounding of binary fractions.
    within = abs(measured - printed) <= tolerance + 1e-9 * max(1.0, abs(printed))
    return REPRODUCED if within else DIFFERS


def verdict_on(
    cell: Any,
    what: str,
    verdict: str,
    reason: str,
    measured: str | None = None,
    tolerance: str | None = None,
    run_id: str = "",
) -> Verdict:
    """A verdict on one row of analysis/paper, its printed value with its unit."""
    table = cell.table if cell.table.startswith("figure") else f"table {cell.table}"
    has_unit = cell.unit in ("GiB", "%") and cell.value != "OOM"
    value = f"{cell.value} {cell.unit}" if has_unit else cell.value
    return Verdict(
        table.capitalize(), what, value, measured, tolerance, verdict, reason, run_id=run_id
    )


def erratum(cell: Any) -> str:
    """What is wrong with the printed value itself, if it is known."""
    return cell.note.split("; ", 1)[1] if "erratum" in cell.note else ""


def failed(cell: Any, what: str, status: str, run_id: str) -> Verdict:
    """The verdict of a run that did not end well: divergence contradicts the paper, a device
    without room or time says nothing of its numbers."""
    text = status_text(status)
    out_of_memory = status in ("oom", "predicted_oom")
    if cell.value == "OOM" and out_of_memory:
        verdict = REPRODUCED
    else:
        same_machine = cell.table == "2" and out_of_memory
        verdict = DIFFERS if status == "diverged" or same_machine else NOT_COMPARABLE
    return verdict_on(cell, what, verdict, f"the run ended as {text}", text, run_id=run_id)


def judged(
    cell: Any,
    what: str,
    run_id: str,
    measured: float,
    tolerance: float,
    unit: str,
    places: int,
    notes: list[str],
    error: float | None = None,
) -> Verdict:
    """The verdict on a measured number, in the printed unit; tolerance and error in the same."""
    target = float(cell.value)
    difference = decimals(abs(measured - target), places)
    side = "above" if measured > target else "below"
    same = float(f"{measured:.{places}f}") == target
    reasons = ["equal in the printed digits" if same else f"{difference} {unit} {side}"]
    verdict = verdict_on(
        cell,
        what,
        judge(target, measured, tolerance),
        "; ".join([*reasons, *filter(None, notes)]),
        f"{decimals(measured, places)} {unit}",
        f"{decimals(tolerance, places)} {unit}",
        run_id,
    )
    return replace(verdict, error=error)
