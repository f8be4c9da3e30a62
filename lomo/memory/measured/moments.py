"""The words of the meter: categories, and the bytes under each at a point of the step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple


class Category(IntEnum):
    """What a storage is held for. Where a storage is two things at once, the smaller value wins."""

    PARAMETERS = 0
    GRADIENTS = 1
    OPTIMIZER_STATE = 2
    ACTIVATIONS = 3
    OTHER = 4


class Moment(NamedTuple):
    """The counters at one point of the step; `order` grows with every change of any counter."""

    order: int
    phase: str
    total_bytes: int
    by_category_bytes: tuple[int, ...]


class Relabel(NamedTuple):
    """From `born` until `at`, `num_bytes` stood under `source` and belonged to `target`."""

    born: int
    at: int
    num_bytes: int
    source: Category
    target: Category


class GradientEvent(NamedTuple):
    """A gradient storage came into being or died: `kind` is gradient_created or _released."""

    kind: str
    moment: Moment
    parameter: str


def corrected(moments: Sequence[Moment], relabels: Iterable[Relabel]) -> list[Moment]:
    """`moments` with every storage under the category that it turned out to have, same order."""
    steps: list[tuple[int, int, Category, Category]] = []
    for label in relabels:
        steps.append((label.born, label.num_bytes, label.source, label.target))
        steps.append((label.at, -label.num_bytes, label.source, label.target))
    steps.sort(key=lambda step: step[0])
    shift = [0] * len(Category)
    result: list[Moment] = list(moments)
    position = 0
    for index in sorted(range(len(moments)), key=lambda index: moments[index].order):
        moment = moments[index]
        while position < len(steps) and steps[position][0] <= moment.order:
            _, num_bytes, source, target = steps[position]
            shift[source] -= num_bytes
            shift[target] += num_bytes
            position += 1
        both = zip(moment.by_category_bytes, shift, strict=True)
        result[index] = moment._replace(by_category_bytes=tuple(raw + more for raw, more in both))
    return result
