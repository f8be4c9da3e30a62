"""What a method tries in a section: its points of hyper-parameters, numbered. Imports no torch."""

from __future__ import annotations

import itertools
from collections import Counter

from lomo import methods
from lomo.specs import HyperValue
from lomo.study.config import Accuracy
from lomo.study.refusals import check_hyper
from lomo.system.strict import parse

Hyper = dict[str, HyperValue]
# (path name of the variant, trial number, hyper-parameters)
Trial = tuple[str, int, Hyper]


def trials_of(method: str, section: Accuracy, where: str) -> list[Trial]:
    """Each point of the method's grid; of one with a rank, the ranks are variants of it."""
    grid = section.grids.get(method, {})
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
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
