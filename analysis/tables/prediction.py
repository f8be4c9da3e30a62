"""Each measured run beside what was predicted for it before it was launched."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lomo.errors import UserError
from lomo.forecast.estimates import Estimate, read_estimates

from ..records.collected import Collected
from ..text.grid import Block, Cell, Table, of_run
from ..text.names import listed, method_title, status_text
from ..text.units import number, percent, unit_for

SECTIONS = ("memory", "throughput", "peers")
KEYS = ("model", "variant", "activation_checkpointing", "sequence_length", "batch_size", "dtype")
# The targets of a prediction beside a GPU's counter: every run, and the median of them.
EACH, MEDIAN = 0.02, 0.01


@dataclass(frozen=True)
class Pair:
    """A measured run and its estimate; `difference` is predicted over measured, less 1."""

    row: Any
    estimate: Estimate

    @property
    def difference(self) -> float | None:
        """None where the run has no peak."""
        measured, predicted = number(self.row.peak_bytes), self.estimate.peak_bytes
        return None if not measured or predicted is None else predicted / measured - 1


def pairs(collected: Collected) -> list[Pair]:
    """The measured runs of a study that were predicted; [] where it has no estimates."""
    path = collected.folder / "estimates.json"
    try:
        estimates = read_estimates(path)
    except UserError:
        if path.exists():
            raise
        return []
    seen: dict[str, Any] = {}
    for section in SECTIONS:
        if section in collected.plan.sections:
            seen |= {row.run_id: row for row in collected.rows(section)}
    return [
        Pair(row, estimates.runs[run_id])
        for run_id, row in seen.items()
        if run_id in estimates.runs and estimates.runs[run_id].peak_bytes is not None
    ]


def table_prediction(collected: Collected) -> Table:
    """Predicted and measured peaks of a study."""
    found = pairs(collected)
    return Table(
        name="table_prediction",
        title="Prediction: peak memory told beforehand, and measured",
        caption=(
            "The predicted peak of a device, told before the run was launched, and the peak that "
            "was measured. The difference is of the prediction, over the measured peak."
            if found
            else f"Nothing to compare: {_why_none(collected)}."
        ),
        blocks=[_block(found)] if found else [],
        notes=_notes(found),
        data=_data(found),
    )


def _why_none(collected: Collected) -> str:
    """Why no measured run stands beside a prediction."""
    asked = [name for name in SECTIONS if name in collected.plan.sections]
    if not asked:
        return "the study measures nothing"
    path = collected.folder / "estimates.json"
    if not path.exists():
        return (
            f"{path.name} is not there, as the prediction failed or was stopped; the next start of "
            "the pipeline makes it again"
        )
    runs = read_estimates(path).runs
    known = [
        runs[row.run_id] for name in asked for row in collected.rows(name) if row.run_id in runs
    ]
    if not known:
        return f"{path.name} holds none of the study's measured runs; delete it, and start again"
    return f"no peak could be predicted ({listed(dict.fromkeys(e.reason or '' for e in known))})"


def _block(found: Sequence[Pair]) -> Block:
    unit = unit_for(pair.row.peak_bytes for pair in found)
    grid: list[list[Cell | str]] = []
    for pair in found:
        row, difference = pair.row, pair.difference
        measured = unit.text(row.peak_bytes) if row.status == "ok" else status_text(row.status)
        grid.append(
            [
                row.model,
                _title(row),
                "on" if row.activation_checkpointing else "off",
                f"{row.batch_size} x {row.sequence_length}",
                unit.text(pair.estimate.peak_bytes),
                *of_run([measured], row),
                "equal" if difference == 0 else percent(difference, 2),
            ]
        )
    heads = [f"predicted ({unit.name})", f"measured ({unit.name})", "difference (%)"]
    return Block(["model", "method", "checkpointing", "tokens", *heads], grid, 4)


def _title(row: Any) -> str:
    return row.variant if row.round is not None else method_title(row.method)


def _notes(found: Sequence[Pair]) -> list[str]:
    known = [abs(pair.difference) for pair in found if pair.difference is not None]
    if not known:
        return []
    equal = sum(difference == 0 for difference in known)
    largest, middle = max(known), statistics.median(known)
    words = (
        f"{equal} of {len(known)} predictions are equal to the byte; the largest difference is "
        f"{percent(largest, 2)} %, the median {percent(middle, 2)} %."
    )
    within = largest <= EACH and middle <= MEDIAN
    target = f"Target: each within {EACH:.0%}, the median within {MEDIAN:.0%}"
    return [words, f"{target}: {'met' if within else 'missed'}."]


def _data(found: Sequence[Pair]) -> pd.DataFrame:
    """One row a run, in bytes."""
    columns = ["predicted_bytes", "measured_bytes", "difference", "account", "status", "run_id"]
    data = [
        {
            **{name: getattr(pair.row, name) for name in KEYS},
            "predicted_bytes": pair.estimate.peak_bytes,
            "measured_bytes": pair.row.peak_bytes,
            "difference": pair.difference,
            "account": pair.estimate.account,
            "status": pair.row.status,
            "run_id": pair.row.run_id,
        }
        for pair in found
    ]
    frame = pd.DataFrame(data, columns=[*KEYS, *columns])
    return frame.astype({"predicted_bytes": "Int64", "measured_bytes": "Int64"})
