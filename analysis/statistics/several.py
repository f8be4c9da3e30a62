"""Many claims at once, and many methods over tasks: Holm, ranks, Nemenyi's distance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, ndtr

from .intervals import CONFIDENCE


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """The p values corrected for their number, in their order; None, what was not tested, stays.

    Of all claims with a corrected p of at most 5 %, one or more is false in at most 5 % of studies.
    """
    known = sorted((p, index) for index, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    highest = 0.0
    for rank, (p, index) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        corrected[index] = highest
    return corrected


def ranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks of methods within each task, 1 for the best, of an array of tasks x methods; equal
    scores share the mean of their ranks."""
    above = (scores[:, None, :] > scores[:, :, None]).sum(axis=2)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(axis=2)
    shared: NDArray[np.float64] = above + (equal + 1) / 2
    return shared


def friedman(scores: NDArray[np.float64]) -> float | None:
    """Iman and Davenport's p that methods (columns) are alike over tasks (rows); None where there
    are too few, or where all are equal.

    Tasks of a study are not drawn from many, so that this tells how alike they rank, and no more.
    """
    num, methods = scores.shape
    if num < 2 or methods < 2:
        return None
    ranked = ranks(scores)
    total = float(((ranked - (methods + 1) / 2) ** 2).sum())
    if total == 0:
        return None
    between = float(num * ((ranked.mean(axis=0) - (methods + 1) / 2) ** 2).sum())
    if math.isclose(between, total):
        return 0.0
    f = (num - 1) * between / (total - between)
    return float(fdtrc(methods - 1, (methods - 1) * (num - 1), f))


def nemenyi(num_methods: int, num_tasks: int) -> float:
    """The distance of two mean ranks from which on they are told apart at 5 %, all pairs
    compared."""
    spread = _studentized_range(num_methods) / math.sqrt(2)
    return spread * math.sqrt(num_methods * (num_methods + 1) / (6 * num_tasks))


def _studentized_range(num: int) -> float:
    """The 95 % quantile of the range of so many standard normal values."""
    z = np.linspace(-9, 9, 3601)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        inside = num * (density * (ndtr(z) - ndtr(z - middle)) ** (num - 1)).sum() * (z[1] - z[0])
        low, high = (middle, high) if inside < CONFIDENCE else (low, middle)
    return (low + high) / 2
