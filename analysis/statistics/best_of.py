"""What the best of k trials is worth, from n trials that were drawn alike: a value and its band.

The best of a method's trials grows with their number, so that only equal numbers compare. The mean
best of all subsets of k is unbiased; that of k draws from the measured values, often shown, is
too low. The band holds for all k at once: it is that of the whole distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaln, xlog1py, xlogy

from .intervals import CONFIDENCE

Numbers = NDArray[np.float64]


def expected_best(values: Sequence[float], k: int) -> float | None:
    """The mean best of all subsets of `k` of the values; None of more than there are."""
    number = len(values)
    if not 1 <= k <= number:
        return None
    subsets = math.comb(number, k)
    return math.fsum(
        value * math.comb(below, k - 1) / subsets for below, value in enumerate(sorted(values))
    )


def expected_best_band(
    values: Sequence[float], k: int, support: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Within which the expected best of `k` lies, for all k at once, of values in `support`.

    Exact for values that never tie, and wider than need be for those that do. What is not seen
    lies at the support's ends.
    """
    low, high = simultaneous(len(values))
    ordered = sorted(values)
    # Of the least distribution that the band holds, and of the largest: P(value <= support point).
    least = _mean_best([support[0], *ordered], [*high, 1.0], k)
    most = _mean_best([*ordered, support[1]], [*low, 1.0], k)
    return least, most


def _mean_best(points: Sequence[float], below: Sequence[float], k: int) -> float:
    """The mean best of k of a distribution with P(value <= points[i]) = below[i]."""
    shares = np.diff(np.asarray(below) ** k, prepend=0.0)
    return float(np.dot(points, shares))


@cache
def simultaneous(number: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Limits of the probabilities below each of `number` ordered draws, all of them held at once in
    95 % of samples: quantiles of each draw's own law, at a level that makes it exact."""
    most, least = 1 - CONFIDENCE, (1 - CONFIDENCE) / (2 * number)  # for one draw; Bonferroni's
    for _ in range(30):
        middle = (most + least) / 2
        if coverage(*_limits(number, middle)) < CONFIDENCE:
            most = middle
        else:
            least = middle
    low, high = _limits(number, least)
    return tuple(map(float, low)), tuple(map(float, high))


def _limits(number: int, miss: float) -> tuple[Numbers, Numbers]:
    rank = np.arange(1, number + 1)
    low, high = (betaincinv(rank, number - rank + 1, p) for p in (miss / 2, 1 - miss / 2))
    return low, high


def coverage(low: Numbers, high: Numbers) -> float:
    """The probability that each of n ordered uniform draws lies within its limits, which ascend.

    By the number of draws below each limit, from left to right: at `low[i]` at most i of them, at
    `high[i]` more than i.
    """
    number = len(low)
    seen = np.arange(number + 1)
    new = seen[None, :] - seen[:, None]  # of seen draws (rows) to more of them (columns)
    left = number - seen[:, None]
    possible = new >= 0
    new, rest = np.where(possible, new, 0), np.where(possible, left - new, 0)
    ways = gammaln(left + 1) - gammaln(new + 1) - gammaln(rest + 1)
    limits = [(at, False, index) for index, at in enumerate(low)]
    limits += [(at, True, index) for index, at in enumerate(high)]
    chances, before = np.zeros(number + 1), 0.0
    chances[0] = 1.0
    for at, is_high, index in sorted(limits):
        # Of a draw that is not yet seen: that it lies between the last limit and this one.
        share = (at - before) / (1 - before) if before < 1 else 0.0
        moves = np.exp(ways + xlogy(new, share) + xlog1py(rest, -share))
        chances = chances @ np.where(possible, moves, 0.0)
        chances[seen <= index if is_high else seen > index] = 0.0
        before = at
    return float(chances.sum())
