"""Ratios of times: logarithms of them, over rounds that stand beside each other, or over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import stdtr, stdtrit

from .intervals import CONFIDENCE, Interval

# Steps beside each other are disturbed alike, so as many are averaged, and a mean counts once.
NUM_BLOCKS = 6


@dataclass(frozen=True)
class Ratio:
    """The logarithm of a ratio of times, its standard error and degrees of freedom."""

    log: float
    stderr: float
    df: float

    @property
    def value(self) -> float:
        """The ratio itself: a geometric mean."""
        return math.exp(self.log)

    @cached_property
    def interval(self) -> Interval:
        """Its 95 % interval."""
        half = self._critical(1) * self.stderr
        return (math.exp(self.log - half), math.exp(self.log + half))

    def p(self, limit: float = 1.0) -> float:
        """How often chance alone is so far from `limit`, to either side."""
        away = abs(self.log - math.log(limit))
        if away < 1e-12:
            return 1.0
        return 2 * float(stdtr(self.df, -away / self.stderr)) if self.stderr else 0.0

    def smallest(self, num_claims: int = 1) -> float:
        """The least change, as a share, that would be decided in 80 % of such studies."""
        seen = self._critical(num_claims) + float(stdtrit(self.df, 0.8))
        return math.expm1(seen * self.stderr)

    def _critical(self, num_claims: int) -> float:
        return float(stdtrit(self.df, 1 - (1 - CONFIDENCE) / 2 / num_claims))


def paired_ratio(ratios: Sequence[float]) -> Ratio | None:
    """Over rounds, of ratios within a round; None of fewer than two."""
    if len(ratios) < 2:
        return None
    logs = np.log(ratios)
    return Ratio(float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs)), len(logs) - 1)


def welch_ratio(first: Sequence[float], second: Sequence[float]) -> Ratio | None:
    """Times of the first over those of the second, from steps in their order, in NUM_BLOCKS blocks;
    None of fewer steps than two blocks need."""
    means = [_block_means(times) for times in (first, second)]
    if min(map(len, means)) < 2:
        return None
    parts = [float(logs.var(ddof=1)) / len(logs) for logs in means]
    whole = sum(parts)
    squares = sum(part**2 / (len(logs) - 1) for part, logs in zip(parts, means, strict=True))
    df = whole**2 / squares if squares else min(map(len, means)) - 1
    return Ratio(float(means[0].mean() - means[1].mean()), math.sqrt(whole), df)


def _block_means(times: Sequence[float]) -> np.ndarray:
    logs = np.log(np.asarray(times, dtype=float))
    num = min(NUM_BLOCKS, len(logs))
    return np.array([block.mean() for block in np.array_split(logs, num)]) if num else logs
