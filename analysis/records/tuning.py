"""What each method's search found: accuracy over learning rate, and how wide its good range is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..statistics.best_of import expected_best, expected_best_band
from ..text.names import NOT_RUN
from .collected import Collected

SECTION = "superglue"
# A rate is good whose accuracy is at most so far below the method's best, as a fraction.
NEAR = 0.05


@dataclass(frozen=True)
class Point:
    """A trial; accuracies are fractions, means over tasks and seeds.

    score: on the split that selects, where a run that did not end well counts 0. by_seed: the same
    of each seed. test: of the reported examples, None where a run was lost.
    """

    trial: int
    rate: float
    score: float
    by_seed: tuple[float, ...]
    test: float | None
    num_lost: int
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class Tuned:
    """A method's trials, by learning rate; `waiting` have no record of some run yet."""

    model: str
    method: str
    rank: int | None
    points: tuple[Point, ...]
    num_waiting: int

    @property
    def best(self) -> Point:
        """The trial with the highest score, of equals the one of the lower rate."""
        return max(self.points, key=lambda point: point.score)

    @property
    def near(self) -> tuple[Point, ...]:
        """The trials around the best, without a gap, whose score is near its."""
        good = [point.score >= self.best.score - NEAR - 1e-9 for point in self.points]
        at = self.points.index(self.best)
        first = next((i + 1 for i in range(at, -1, -1) if not good[i]), 0)
        last = next((i - 1 for i in range(at, len(good)) if not good[i]), len(good) - 1)
        return self.points[first : last + 1]

    @property
    def width(self) -> float:
        """The largest of the near rates over the least of them."""
        return self.near[-1].rate / self.near[0].rate

    @property
    def open_ends(self) -> tuple[bool, bool]:
        """Whether the near rates go on below the least that was tried, and above the largest."""
        return self.near[0] is self.points[0], self.near[-1] is self.points[-1]

    @property
    def begin(self) -> Point:
        """The near trial in their middle, on a logarithmic scale: where to begin."""
        middle = math.log(self.near[0].rate * self.near[-1].rate) / 2
        return min(self.near, key=lambda point: abs(math.log(point.rate) - middle))

    def best_of(self, k: int) -> tuple[float, tuple[float, float]] | None:
        """The expected best score of `k` trials and its 95 % band; None of more than there are."""
        scores = [point.score for point in self.points]
        value = expected_best(scores, k)
        return None if value is None else (value, expected_best_band(scores, k))


@cache
def tuned(collected: Collected) -> tuple[Tuned, ...]:
    """What was searched, by model and method, in their order; those with no trial are left out."""
    rows: dict[tuple[str, str], dict[int, list[Any]]] = {}
    for row in collected.rows(SECTION):
        if row.method != "zero_shot":
            rows.setdefault((row.model, row.variant), {}).setdefault(row.trial, []).append(row)
    found = []
    for trials in rows.values():
        first = next(iter(trials.values()))[0]
        ended = [runs for runs in trials.values() if all(run.status != NOT_RUN for run in runs)]
        if ended:
            points = sorted(map(lambda r: _point(collected, r), ended), key=lambda p: p.rate)
            waiting = len(trials) - len(ended)
            found.append(Tuned(first.model, first.method, first.rank, tuple(points), waiting))
    return tuple(found)


def _point(collected: Collected, rows: Sequence[Any]) -> Point:
    column = f"{collected.plan.study.selection}_accuracy"
    scores = [getattr(row, column) or 0.0 if row.status == "ok" else 0.0 for row in rows]
    tests = [row.test_accuracy for row in rows if row.status == "ok"]
    by_seed: dict[int, list[float]] = {}
    for row, score in zip(rows, scores, strict=True):
        by_seed.setdefault(row.seed, []).append(score)
    hyper = collected.plan.runs[rows[0].run_id].hyper
    return Point(
        trial=rows[0].trial,
        rate=float(hyper["learning_rate"]),
        score=_mean(scores),
        by_seed=tuple(map(_mean, by_seed.values())),
        test=_mean(tests) if len(tests) == len(rows) else None,
        num_lost=len(rows) - len(tests),
        run_ids=tuple(row.run_id for row in rows),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
