"""Intervals of one value: of a share of examples, and of a mean over seeds or rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Not scipy.stats, which takes longer to import than all tables to make.
from scipy.special import betaincinv, ndtri, stdtrit

CONFIDENCE = 0.95
# Standard errors in half of a two-sided 95 % interval.
Z = float(ndtri(0.5 + CONFIDENCE / 2))
# Below so many examples a share's interval is the exact one.
SMALL = 40

Interval = tuple[float, float]


def sample_stderr(accuracy: float, num_examples: int) -> float:
    """Standard error of an accuracy (a fraction) over independent examples, as lm-eval's: n - 1."""
    return math.sqrt(accuracy * (1 - accuracy) / max(1, num_examples - 1))


def sample_interval(accuracy: float, num_examples: int) -> Interval:
    """Wilson's 95 % interval of an accuracy: unlike +-1.96 errors it has a width at 0 and 1."""
    share = round(accuracy * num_examples) / num_examples
    whole = 2 * (num_examples + Z**2)
    centre = (2 * num_examples * share + Z**2) / whole
    half = Z / whole * math.sqrt(4 * num_examples * share * (1 - share) + Z**2)
    return (centre - half if share > 0 else 0.0, centre + half if share < 1 else 1.0)


def exact_interval(accuracy: float, num_examples: int) -> Interval:
    """Clopper and Pearson's 95 % interval of an accuracy: it holds the truth in 95 % at least."""
    right, tail = round(accuracy * num_examples), (1 - CONFIDENCE) / 2
    wrong = num_examples - right
    low = float(betaincinv(right, wrong + 1, tail)) if right else 0.0
    high = float(betaincinv(right + 1, wrong, 1 - tail)) if wrong else 1.0
    return (low, high)


def share_interval(accuracy: float, num_examples: int) -> Interval:
    """The 95 % interval of an accuracy: exact of few examples (SMALL), else Wilson's."""
    of = exact_interval if num_examples < SMALL else sample_interval
    return of(accuracy, num_examples)


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Student's 95 % interval of the mean over seeds, or None for fewer than two."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * spread
    half /= math.sqrt(len(values))
    return (mean - half, mean + half)


def mean_interval(means: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """95 % interval of the average of independent values, from their own intervals."""
    num = len(means)
    mean = math.fsum(means) / num
    pairs = list(zip(means, intervals, strict=True))
    below = math.hypot(*(value - low for value, (low, _) in pairs))
    above = math.hypot(*(high - value for value, (_, high) in pairs))
    return (mean - below / num, mean + above / num)
