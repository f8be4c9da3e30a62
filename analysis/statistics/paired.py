"""Two methods on the same examples: the difference of each example, over seeds and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from .difference import Difference, Part
from .intervals import CONFIDENCE, Interval

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Pairs:
    """One task: `differences` (seeds x examples) of being right, -1, 0 or 1.

    groups: for each example the number of what it shares with others (MultiRC's passage), from 0;
    None where each stands alone.
    """

    differences: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None

    @property
    def num_groups(self) -> int:
        """How many groups, or examples."""
        return self.differences.shape[1] if self.groups is None else int(self.groups.max()) + 1


def difference(tasks: Sequence[Pairs]) -> Difference:
    """The mean over tasks of the mean difference, and its two errors.

    All tasks have the same seeds, in the same order; a task's examples are the same for each seed.
    """
    num_seeds = len(tasks[0].differences)
    of_seeds = np.mean([task.differences.mean(axis=1) for task in tasks], axis=0)
    value = float(of_seeds.mean())
    found = [_example_variances(task) for task in tasks]
    alone, both = (float(sum(part)) / len(tasks) ** 2 for part in zip(*found, strict=True))
    df = max(1, min(task.num_groups for task in tasks) - 1)
    seeds = None
    if num_seeds > 1:
        seeds = Part(float(of_seeds.var(ddof=1)) / num_seeds, num_seeds - 1)
    return Difference(
        value,
        seeds,
        # What seeds and examples do together is in the seeds' part already.
        Part(max(0.0, alone - both), df),
        Part(alone, df),
        num_seeds,
        sum(task.differences.shape[1] for task in tasks),
    )


def _example_variances(task: Pairs) -> tuple[float, float]:
    """What a task's examples give to its mean's variance: all of it, and the share of it that is
    of seed and example together, so that other seeds would draw it anew.

    A group's examples count as one. Of few examples, all of which go one way, the variance is not
    0: it is at least that of two more, made up one for each side, as Bonett and Price do.
    """
    num_seeds, num = task.differences.shape
    rest = task.differences - task.differences.mean(axis=1, keepdims=True)
    if task.groups is not None:
        summed = np.zeros((num_seeds, task.num_groups))
        np.add.at(summed.T, task.groups, rest.T)
        rest = summed
    num_groups = rest.shape[1]
    if num_groups < 2:
        return 1.0, 0.0  # one passage tells nothing of others
    unbiased = num_groups / (num_groups - 1)
    means = rest.mean(axis=0)
    value = float(task.differences.mean())
    made_up = (1 - value) ** 2 + (1 + value) ** 2
    alone = max(unbiased * float((means**2).sum()) / num**2, made_up / (num + 2) ** 2)
    if num_seeds < 2:
        return alone, 0.0
    residual = float(((rest - means) ** 2).sum()) / (num_seeds - 1)
    return alone, unbiased * residual / num_seeds / num**2


def bootstrap(tasks: Sequence[Pairs], seed: int = 0) -> Interval:
    """The 95 % interval of the mean difference if the examples were others and the seeds the same:
    examples drawn anew, by groups where there are some."""
    draw = np.random.default_rng(seed)
    means = np.zeros(NUM_RESAMPLES)
    for task in tasks:
        each = task.differences.mean(axis=0)
        sizes = np.ones(len(each))
        if task.groups is not None:
            sizes = np.bincount(task.groups).astype(float)
            each = np.bincount(task.groups, weights=each)
        num = len(each)
        times = draw.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES)
        means += (times @ each) / (times @ sizes) / len(tasks)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return (float(low), float(high))


def mcnemar(first_only: int, second_only: int) -> float:
    """McNemar's exact two-sided p: examples that only one of two gets right, by a fair coin."""
    num = first_only + second_only
    return min(1.0, 2 * float(bdtr(min(first_only, second_only), num, 0.5))) if num else 1.0


def p_of_examples(tasks: Sequence[Pairs], margin: float = 0.0) -> float:
    """The two-sided p of one seed's difference, as if there were no other: McNemar's where it is
    one task of single examples and no margin, else by the examples' error."""
    task = tasks[0]
    if len(tasks) == 1 and task.groups is None and margin == 0 and len(task.differences) == 1:
        apart = task.differences[0]
        return mcnemar(int((apart > 0).sum()), int((apart < 0).sum()))
    return difference(tasks).above(margin).p_of_examples


def consistency(right: NDArray[np.float64]) -> float | None:
    """The share of examples that all seeds get right, or all wrong, of an array of seeds x
    examples; None of one seed."""
    return None if len(right) < 2 else float((right == right[0]).all(axis=0).mean())
