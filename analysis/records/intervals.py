"""Two kinds of uncertainty, kept apart: of the test sample, and of the training seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Not scipy.stats, which takes longer to import than all tables to make.
from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
# Standard errors in half of a two-sided 95 % interval.
Z = float(ndtri(0.5 + CONFIDENCE / 2))

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


def apart(first: Sequence[Interval], second: Sequence[Interval]) -> bool:
    """Whether the first's intervals, of whatever kind, all lie above all of the second's."""
    return min(low for low, _ in first) > max(high for _, high in second)
