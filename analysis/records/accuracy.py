"""Accuracy cells: for each model, variant and task the trial that the protocol picks, over seeds.

`dev`: the trial with the best mean dev value (at the selected epoch) is reported with its test
value. `test`: the trial with the best test value is, which is the paper's own way.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..statistics.intervals import (
    Interval,
    mean_interval,
    sample_stderr,
    seed_interval,
    share_interval,
)
from ..text.names import worst_status
from .collected import Collected

AVERAGE = "average"


@dataclass(frozen=True)
class Cell:
    """One cell; accuracies are fractions. `accuracy` is None unless `status` is ok."""

    model: str
    variant: str
    method: str
    rank: int | None
    task: str
    status: str
    trial: int | None
    accuracy: float | None
    stderr: float | None
    sample: Interval | None
    seeds: Interval | None
    # Of an average: the seeds that every task has.
    by_seed: dict[int, float]
    # Of a task: seed -> run. Empty for an average.
    run_of: dict[int, str]
    num_planned_seeds: int
    num_examples: int | None
    run_ids: tuple[str, ...]
    # Trials that were planned, and those of which every seed ended well.
    num_trials: int
    num_usable_trials: int

    @property
    def widest(self) -> Interval | None:
        """The wider of the two intervals, within 0 and 1: what a figure draws."""
        ends = max(self.intervals, key=lambda ends: ends[1] - ends[0], default=None)
        return None if ends is None else (max(0.0, ends[0]), min(1.0, ends[1]))

    @property
    def intervals(self) -> list[Interval]:
        """The known intervals, of the sample and of the seeds."""
        return [interval for interval in (self.sample, self.seeds) if interval is not None]


@cache
def accuracy_cells(collected: Collected, section: str) -> tuple[Cell, ...]:
    """The cells of an accuracy section, an average behind the tasks of each variant."""
    groups: dict[tuple[str, str], dict[str, list[Any]]] = {}
    for row in collected.rows(section):
        groups.setdefault((row.model, row.variant), {}).setdefault(row.task, []).append(row)
    cells: list[Cell] = []
    for by_task in groups.values():
        of_tasks = [
            _cell(by_task[task], collected.plan.study.selection)
            for task in tasks_of(collected, section)
            if task in by_task
        ]
        cells += [*of_tasks, _average(of_tasks)]
    return tuple(cells)


def tasks_of(collected: Collected, section: str) -> list[str]:
    """The tasks of an accuracy section, in the study's order, which is that of the columns."""
    asked = getattr(collected.plan.study, section)
    return list(dict.fromkeys(asked.tasks)) if asked is not None else []


def average_over(cells: Sequence[Cell], tasks: Collection[str], **wanted: object) -> Cell | None:
    """The average over some of a study's tasks, of the variant whose cells equal `wanted`; None
    without any."""
    first = find(cells, **wanted)
    if first is None:
        return None
    key = (first.model, first.variant)
    some = [c for c in cells if (c.model, c.variant) == key and c.task in tasks]
    return _average(some) if some else None


def variants(cells: Sequence[Cell], model: str) -> list[str]:
    """The variants of a model, in their order."""
    return list(dict.fromkeys(cell.variant for cell in cells if cell.model == model))


def find(cells: Sequence[Cell], **wanted: object) -> Cell | None:
    """The first cell whose fields equal `wanted`."""
    return next(
        (cell for cell in cells if all(getattr(cell, k) == v for k, v in wanted.items())), None
    )


def chosen_trial(rows: Sequence[Any], selection: str) -> int | None:
    """The trial that the protocol reports, of the runs of one cell; None if none ended well.

    A trial counts with all its seeds or, where no trial has all of them, with as many as any has.
    Ties go to the lower number.
    """
    by_trial: dict[int, list[Any]] = {}
    for row in filter(_usable, rows):
        by_trial.setdefault(row.trial, []).append(row)
    if not by_trial:
        return None
    complete = max(map(len, by_trial.values()))
    candidates = sorted(trial for trial, runs in by_trial.items() if len(runs) == complete)

    def score(trial: int) -> float:
        values = [getattr(row, f"{selection}_accuracy") for row in by_trial[trial]]
        # Without a dev value (zero-shot needs none) there is nothing to choose by.
        return -math.inf if None in values else _mean(values)

    return max(candidates, key=score)


def _usable(row: Any) -> bool:
    return row.status == "ok" and row.test_accuracy is not None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _stderr(row: Any) -> float:
    """The error that lm-eval gave, else what it would have given."""
    if row.test_stderr is not None:
        return float(row.test_stderr)
    return sample_stderr(row.test_accuracy, row.num_test_examples)


def _cell(rows: Sequence[Any], selection: str) -> Cell:
    first = rows[0]
    trial = chosen_trial(rows, selection)
    lost = {row.trial for row in rows if not _usable(row)}
    ended = [row for row in rows if row.trial == trial and _usable(row)]
    by_seed = {row.seed: row.test_accuracy for row in ended}
    mean = _mean(list(by_seed.values())) if by_seed else None
    examples = ended[0].num_test_examples if ended else None
    # All seeds are put to the same test sample, so its error does not shrink with their number.
    errors = [_stderr(row) for row in ended]
    return Cell(
        model=first.model,
        variant=first.variant,
        method=first.method,
        rank=first.rank,
        task=first.task,
        status="ok" if ended else worst_status(row.status for row in rows),
        trial=trial,
        accuracy=mean,
        stderr=_mean(errors) if errors else None,
        sample=share_interval(mean, examples) if mean is not None and examples else None,
        seeds=seed_interval(list(by_seed.values())),
        by_seed=by_seed,
        run_of={row.seed: row.run_id for row in ended},
        num_planned_seeds=len({row.seed for row in rows}),
        num_examples=examples,
        run_ids=tuple(row.run_id for row in (ended or rows)),
        num_trials=len({row.trial for row in rows}),
        num_usable_trials=len({row.trial for row in rows} - lost),
    )


def _average(cells: Sequence[Cell]) -> Cell:
    """The mean over the tasks, if every task has a value."""
    first = cells[0]
    values = [cell.accuracy for cell in cells if cell.accuracy is not None]
    whole = len(values) == len(cells)
    seeds = set.intersection(*(set(cell.by_seed) for cell in cells)) if whole else set()
    by_seed = {
        seed: math.fsum(cell.by_seed[seed] for cell in cells) / len(cells) for seed in sorted(seeds)
    }
    errors = [cell.stderr for cell in cells if cell.stderr is not None]
    samples = [cell.sample for cell in cells if cell.sample is not None]
    return Cell(
        model=first.model,
        variant=first.variant,
        method=first.method,
        rank=first.rank,
        task=AVERAGE,
        status="ok" if whole else worst_status(cell.status for cell in cells),
        trial=None,
        accuracy=_mean(values) if whole else None,
        stderr=math.hypot(*errors) / len(errors) if whole else None,
        sample=mean_interval(values, samples) if whole else None,
        seeds=seed_interval(list(by_seed.values())),
        by_seed=by_seed,
        run_of={},
        num_planned_seeds=max(cell.num_planned_seeds for cell in cells),
        num_examples=None,
        run_ids=tuple(run_id for cell in cells for run_id in cell.run_ids) if whole else (),
        num_trials=sum(cell.num_trials for cell in cells),
        num_usable_trials=sum(cell.num_usable_trials for cell in cells),
    )
