"""Two accuracies of a study beside each other: the same seeds, the same examples, one by one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..statistics import paired
from ..statistics.difference import Difference
from ..statistics.paired import Pairs
from ..text.names import method_title, task_title
from .accuracy import AVERAGE, Cell, accuracy_cells, find
from .collected import Collected
from .outcomes import outcomes

# One-sided: what is not above zero-shot at this level shows no gain.
GAIN_LEVEL = 0.05
# A method of which so many cells show no gain is no baseline for another.
NO_BASELINE = 1 / 3


def behind(cells: Sequence[Cell], cell: Cell, tasks: Collection[str] | None = None) -> list[Cell]:
    """The cells of single tasks that a cell is the average of, of `tasks` alone where they are
    given; a task's own cell."""
    if cell.task != AVERAGE:
        return [cell]
    key = (cell.model, cell.variant)
    of = [c for c in cells if (c.model, c.variant) == key and c.task != AVERAGE]
    return [c for c in of if tasks is None or c.task in tasks]


def pairs_of(
    collected: Collected, firsts: Sequence[Cell], seconds: Sequence[Cell]
) -> list[Pairs] | str:
    """Two methods' cells, task by task, paired by seed and example; or why they cannot be paired.

    A method without a seed to vary (zero-shot of one base model) stands beside each seed.
    """
    seeds = common_seeds(firsts, seconds)
    if not seeds:
        return "no seed of which both have a value in each task"
    pairs = []
    for first, second in zip(firsts, seconds, strict=True):
        runs = [_run(cell, seed) for cell in (first, second) for seed in seeds]
        found = [outcomes(collected).get(run) for run in runs]
        known = [each for each in found if each is not None]
        if len(known) < len(found):
            lacking = runs[found.index(None)]
            return f"which examples {lacking} gets right was not collected"
        if len({each.examples for each in known}) > 1:
            names = f"{method_title(first.method)} and {method_title(second.method)}"
            return (
                f"{names} were scored on different examples of {task_title(first.task)}, "
                "which cannot be paired"
            )
        right = np.stack([each.right for each in known])
        apart = right[: len(seeds)] - right[len(seeds) :]
        pairs.append(Pairs(apart, known[0].groups))
    return pairs


def common_seeds(firsts: Sequence[Cell], seconds: Sequence[Cell]) -> list[int]:
    """The seeds of which both have a value in each task."""
    sets = [set(cell.run_of) for cell in [*firsts, *seconds] if not _seedless(cell)]
    if not sets:
        sets = [set(cell.run_of) for cell in [*firsts, *seconds]]
    return sorted(set.intersection(*sets)) if sets else []


def _seedless(cell: Cell) -> bool:
    return cell.method == "zero_shot" and cell.num_planned_seeds == 1


def _run(cell: Cell, seed: int) -> str:
    return next(iter(cell.run_of.values()), "") if _seedless(cell) else cell.run_of[seed]


def compared(
    collected: Collected, firsts: Sequence[Cell], seconds: Sequence[Cell]
) -> Difference | str:
    """How far the first are above the second, on average over tasks; or why that is not known."""
    pairs = pairs_of(collected, firsts, seconds)
    return pairs if isinstance(pairs, str) else paired.difference(pairs)


@cache
def gains_nothing(collected: Collected, section: str) -> dict[tuple[str, str, str], bool | None]:
    """Of each trained cell (model, variant, task), whether it is not above zero-shot by a paired
    test, one-sided; None where that cannot be told."""
    cells = accuracy_cells(collected, section)
    return {
        (cell.model, cell.variant, cell.task): _gains_nothing(collected, cells, cell)
        for cell in cells
    }


def _gains_nothing(collected: Collected, cells: Sequence[Cell], cell: Cell) -> bool | None:
    base = find(cells, model=cell.model, task=cell.task, method="zero_shot")
    if base is None or cell.method == "zero_shot":
        return None
    return gains_nothing_over(collected, behind(cells, cell), behind(cells, base))


def gains_nothing_over(
    collected: Collected, trained: Sequence[Cell], bases: Sequence[Cell]
) -> bool | None:
    """Whether trained cells are not above zero-shot's; None where that cannot be told."""
    if any(cell.accuracy is None for cell in [*trained, *bases]):
        return None
    found = compared(collected, trained, bases)
    return None if isinstance(found, str) else found.p_above > GAIN_LEVEL


def no_baseline(gains: Collection[bool | None]) -> bool:
    """Whether a third or more of a method's cells, of those that can be told, show no gain."""
    known = [gain for gain in gains if gain is not None]
    return bool(known) and sum(known) >= NO_BASELINE * len(known) - 1e-9


def alike(collected: Collected, cell: Cell) -> float | None:
    """The share of a task's examples that all seeds get right, or all wrong; None of one seed."""
    found = [outcomes(collected).get(run) for run in cell.run_of.values()]
    known = [each for each in found if each is not None]
    if len(known) < len(found) or len({each.examples for each in known}) != 1:
        return None
    right: NDArray[np.float64] = np.stack([each.right for each in known])
    return paired.consistency(right)
