"""What an ablation's runs say of each change: bytes saved alone, in the stack, and lost without it.

The same from predictions and from records, so that the two stand beside each other. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomo.study.ablation import Cell, Row, plan_ablation
from lomo.study.plan import Plan

from ..records.collected import Collected
from ..text.names import NOT_RUN
from ..text.units import GIB, MIB, Unit
from .predictions import Predicted, read_predictions

SECTION = "ablation"
# At the moment of the peak, when all parts are alive together.
PEAK_PARTS = ("parameters", "gradients", "optimizer_state", "activations", "other")
REFUSED, NOT_PREDICTED = "refused", "not predicted"


@dataclass(frozen=True)
class Found:
    """What is known of one run: bytes of a device, seconds of a step; None where there is none."""

    status: str = NOT_RUN
    peak_bytes: int | None = None
    at_peak: Mapping[str, int] | None = None
    step_s: float | None = None
    reason: str | None = None


NOTHING = Found()


@dataclass(frozen=True)
class Side:
    """One cell with its numbers. change_bytes: saved, or in the cells left out lost, if negative
    the other way round. time_ratio: over the step that it is compared with."""

    cell: Cell
    found: Found
    change_bytes: int | None
    time_ratio: float | None


@dataclass(frozen=True)
class Entry:
    """One change of one model; of the base only `stacked` has a run."""

    row: Row
    alone: Side
    stacked: Side
    without: Side

    @property
    def is_base(self) -> bool:
        return self.stacked.cell.against is None and self.stacked.cell.reason is None


def rows_of(plan: Plan) -> list[Row]:
    """The rows of the plan's ablation; [] without a section."""
    section = plan.study.ablation
    if section is None:
        return []
    names = dict.fromkeys(plan.runs[run_id].model for run_id in plan.sections[SECTION])
    entries = [plan.models[name] for name in names]
    return plan_ablation(plan.study, section, entries, plan.source)[1]


def entries(plan: Plan, found: Mapping[str, Found]) -> list[Entry]:
    """The rows of the plan's ablation with what is known of their runs, by run id."""
    return [
        Entry(
            row,
            _side(row.alone, found, saved=True),
            _side(row.stacked, found, saved=True),
            _side(row.without, found, saved=False),
        )
        for row in rows_of(plan)
    ]


def unit_of(found: Iterable[Entry]) -> Unit:
    """MiB below a peak of 4 GiB: differences are small beside it."""
    peaks = [entry.stacked.found.peak_bytes or 0 for entry in found]
    return GIB if max(peaks, default=0) > 4 * GIB.num_bytes else MIB


def _side(cell: Cell, found: Mapping[str, Found], *, saved: bool) -> Side:
    mine = found.get(cell.run_id or "", NOTHING)
    other = found.get(cell.against or "", NOTHING)
    change = ratio = None
    if mine.peak_bytes is not None and other.peak_bytes is not None:
        change = (other.peak_bytes - mine.peak_bytes) * (1 if saved else -1)
    if mine.step_s is not None and other.step_s is not None:
        ratio = mine.step_s / other.step_s
    return Side(cell, mine, change, ratio)


def predicted(predictions: Iterable[Predicted]) -> dict[str, Found]:
    """What was predicted of the ablation's runs."""
    found = {}
    for row in predictions:
        if row.section != SECTION:
            continue
        status = "ok" if row.ledger else NOT_PREDICTED
        parts = row.ledger["at_peak"] if row.ledger else None
        at_peak = {part: int(parts[f"{part}_bytes"]) for part in PEAK_PARTS} if parts else None
        peak = row.peak_bytes
        found[row.spec.run_id] = Found(status, peak, at_peak, reason=row.reason)
    return found


def measured(collected: Collected) -> dict[str, Found]:
    """What was measured of them."""
    return {row.run_id: _measured(row) for row in collected.rows(SECTION)}


def _measured(row: Any) -> Found:
    if row.status != "ok":
        return Found(row.status, reason=row.message)
    at_peak = {part: int(getattr(row, f"at_peak_{part}_bytes")) for part in PEAK_PARTS}
    # What a GPU's allocator holds beside the ledger.
    at_peak["other"] += int(row.at_peak_residual_bytes or 0)
    return Found("ok", int(row.peak_bytes), at_peak, float(row.step_s_median))


def predicted_beside(results: Path) -> dict[str, Found]:
    """The predictions that stand beside a study's records; {} where none were made."""
    there = (results / "predictions" / "index.json").is_file()
    return predicted(read_predictions(results / "predictions")) if there else {}
