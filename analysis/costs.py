"""What a method costs (peak bytes, seconds a step, tokens/s) beside what it reaches (accuracy)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import accuracy
from .accuracy import AVERAGE, Cell, accuracy_cells
from .collected import Collected
from .comparable import size_of


@dataclass(frozen=True)
class Costs:
    """Measured runs of one model in one setting, one a method, and its mean accuracies."""

    model: str
    # Method -> run; only runs that ended well.
    measured: dict[str, Any]
    averages: dict[str, Cell]
    setting: str


def costs(collected: Collected) -> Costs | str:
    """The study's largest scored model at what it costs, or why there is no such thing.

    Of the measured settings the one that covers most methods is taken; of equals Table 2's.
    """
    for section in ("superglue", "memory"):
        reason = collected.why_empty(section)
        if reason and not (section == "memory" and collected.why_empty("throughput") is None):
            return reason
    model = collected.largest_model("superglue")
    cells = [cell for cell in accuracy_cells(collected, "superglue") if cell.model == model]
    averages: dict[str, Cell] = {}
    for cell in cells:
        if cell.task == AVERAGE and cell.accuracy is not None:
            averages.setdefault(cell.method, cell)
    candidates = []
    for section in ("throughput", "memory"):
        rows = [r for r in collected.rows(section) if (r.model, r.status) == (model, "ok")]
        rows = [r for r in rows if size_of(r) == size_of(rows[0])]
        for checkpointed in (True, False):
            of = {r.method: r for r in rows if bool(r.activation_checkpointing) == checkpointed}
            candidates.append((of, checkpointed))
    measured, checkpointed = max(candidates, key=lambda item: len(item[0].keys() & averages.keys()))
    if not measured:
        return f"no measured run of {model} ended well"
    first = next(iter(measured.values()))
    setting = (
        f"{model}, {first.batch_size} x {first.sequence_length} tokens, {first.dtype}, "
        f"{'with' if checkpointed else 'without'} checkpointing"
    )
    return Costs(model, measured, averages, setting)


def zero_shot(found: Costs) -> float | None:
    """Mean accuracy of the untrained model in %, if it is known."""
    cell = accuracy.find(list(found.averages.values()), method="zero_shot")
    return None if cell is None or cell.accuracy is None else 100 * cell.accuracy
