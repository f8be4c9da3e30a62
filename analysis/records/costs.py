"""What a method costs (peak bytes, seconds a step, tokens/s) beside what it reaches (accuracy)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from . import accuracy
from .accuracy import AVERAGE, Cell, accuracy_cells
from .collected import Collected
from .comparable import size_of, size_text


@dataclass(frozen=True)
class Costs:
    """Measured runs in one setting, one a method, and the mean accuracies of a model.

    measured, timed: method -> run that ended well; what memory and what speed is read from, each
    in the one setting that is named beside it, and of the model unless that names another.
    """

    model: str
    measured: dict[str, Any]
    setting: str
    timed: dict[str, Any]
    timed_setting: str
    averages: dict[str, Cell]


def costs(collected: Collected) -> Costs | str:
    """The study's largest scored model at what it costs, or why there is no such thing.

    Of the measured settings the one that covers most methods is taken; of equals Table 2's. Of a
    miniature's base model, too small for its parameters to outweigh activations, memory may be that
    of another model, which is named. Speeds are Table 2's own,
    where it has the model: a page tells one speed of a method.
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
    of_table_2 = _candidates(collected, "throughput", model)
    of_table_1 = collected.models("memory")
    made_here = collected.plan.models[model].weights == "pretrain"
    names = of_table_1 if made_here and model not in of_table_1 else [model]
    of_memory = [of for name in names for of in _candidates(collected, "memory", name)]
    measured = _most_covering([*of_table_2, *of_memory], averages)
    if not measured:
        return f"no measured run of {model} ended well"
    timed = _most_covering(of_table_2, averages) or measured
    return Costs(
        model, measured, _setting(measured, model), timed, _setting(timed, model), averages
    )


def _candidates(collected: Collected, section: str, model: str) -> list[dict[str, Any]]:
    """The runs of a model that ended well, by method, in each of a section's settings."""
    rows = [row for row in collected.rows(section) if row.model == model]
    # All that were asked for: a size whose first run failed is one of them.
    settings = product(dict.fromkeys(map(size_of, rows)), (True, False))
    ended = [row for row in rows if row.status == "ok"]
    return [
        {r.method: r for r in ended if (size_of(r), bool(r.activation_checkpointing)) == setting}
        for setting in settings
    ]


def _most_covering(
    candidates: Sequence[dict[str, Any]], averages: Mapping[str, Cell]
) -> dict[str, Any]:
    if not candidates:
        return {}
    return max(candidates, key=lambda of: (len(of.keys() & averages.keys()), len(of)))


def _setting(runs: Mapping[str, Any], model: str) -> str:
    first = next(iter(runs.values()))
    other = "" if first.model == model else f"{first.model} at "
    return (
        f"{other}{size_text(size_of(first))}, {first.dtype}, "
        f"{'with' if first.activation_checkpointing else 'without'} checkpointing"
    )


def zero_shot(found: Costs) -> float | None:
    """Mean accuracy of the untrained model in %, if it is known."""
    cell = accuracy.find(list(found.averages.values()), method="zero_shot")
    return None if cell is None or cell.accuracy is None else 100 * cell.accuracy
