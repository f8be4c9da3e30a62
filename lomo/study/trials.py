"""What a method tries in a section: its points of hyper-parameters, numbered. Imports no torch."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from lomo import methods
from lomo.specs import HyperValue
from lomo.study.config import Accuracy, Search
from lomo.study.refusals import check_hyper
from lomo.system.strict import parse

Hyper = dict[str, HyperValue]
# (path name of the variant, trial number, hyper-parameters)
Trial = tuple[str, int, Hyper]

# Each range has a base of its own; beyond a few, the first points of a sequence lie on lines.
_BASES = (2, 3, 5, 7, 11, 13)
_DIGITS = 4  # of a value that is searched: it stands in tables


def trials_of(method: str, section: Accuracy, where: str) -> list[Trial]:
    """Each point of the method's grid or search; of one with a rank, the ranks are variants."""
    grid = section.grids.get(method, {})
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    if section.search is not None and methods.describe(method).trains:
        points = [points[0] | found for found in searched(method, section.search)]
    has_rank = "rank" in methods.describe(method).hyper.model_fields
    if section.ranks and has_rank:
        points = [{**point, "rank": rank} for rank in section.ranks for point in points]
    resolved = [resolved_hyper(method, point, f"{where}.grids.{method}") for point in points]
    for hyper in resolved:
        check_hyper(method, hyper, section.settings, f"{where}.grids.{method}")
    numbers: Counter[str] = Counter()
    numbered = []
    for hyper in resolved:
        variant = f"{method}-r{hyper['rank']}" if has_rank else method
        numbered.append((variant, numbers[variant], hyper))
        numbers[variant] += 1
    return numbered


def resolved_hyper(method: str, point: Hyper, where: str) -> Hyper:
    """All hyper-parameters of a method, those that `point` leaves out by default."""
    return parse(methods.describe(method).hyper, point, where=where).model_dump()


def searched(method: str, search: Search) -> list[Hyper]:
    """The points of a method's search: a trial lies at the same shares of the ranges of all.

    More trials go on where fewer end, so that a larger budget repeats none.
    """
    draw = random.Random(search.seed)
    shifts = [draw.random() for _ in _BASES]
    points = []
    for index in range(1, search.trials + 1):
        point: Hyper = {}
        axes = zip(search.ranges[method].items(), _BASES, shifts, strict=False)
        for (name, (least, most)), base, shift in axes:
            share = (radical_inverse(index, base) + shift) % 1
            point[name] = float(f"{least * (most / least) ** share:.{_DIGITS}g}")
        points.append(point)
    return points


def radical_inverse(index: int, base: int) -> float:
    """The digits of `index` in `base`, mirrored at the point: of 6 = 110 in base 2, 0.011 = 3/8."""
    found, weight = 0.0, 1.0
    while index:
        index, digit = divmod(index, base)
        weight /= base
        found += digit * weight
    return found
