"""Labels beside the data in place of a legend, moved apart where they would overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from .style import text_colour

# Where a label may stand around its point: distance in points of type, then angle; near first,
# right before left before above and below.
_REACHES = (0.0, 7.0, 15.0, 24.0, 34.0)
_ANGLES = (0.0, 180.0, 90.0, 270.0, 30.0, 330.0, 150.0, 210.0, 60.0, 300.0, 120.0, 240.0)
# A label further away than this gets a thin line to its point.
_LEADER_FROM = 5.0


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """The positions moved as little as a simple sweep does so that neighbours are `gap` apart."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    groups: list[list[int]] = [[index] for index in order]
    moved = list(positions)

    def settle(group: list[int]) -> None:
        centre = sum(positions[index] for index in group) / len(group)
        for place, index in enumerate(group):
            moved[index] = centre + gap * (place - (len(group) - 1) / 2)

    while True:
        for group in groups:
            settle(group)
        clash = next(
            (
                i
                for i, (a, b) in enumerate(pairwise(groups))
                if moved[b[0]] - moved[a[-1]] < gap - 1e-9
            ),
            None,
        )
        if clash is None:
            return moved
        groups[clash : clash + 2] = [groups[clash] + groups[clash + 1]]


def line_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], *, size: float = 7.5) -> None:
    """Names lines at their right ends: (y at the end, text, colour). Needs final axis limits."""
    low, high = axes.get_ylim()
    height_points = axes.get_window_extent().height * 72 / axes.figure.dpi
    gap = (high - low) * (size * 1.3) / height_points
    places = spread([y for y, _, _ in ends], gap)
    for (_, text, colour), y in zip(ends, places, strict=True):
        axes.annotate(
            text,
            (1, y),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            color=text_colour(colour),
            fontsize=size,
            va="center",
            annotation_clip=False,
        )


def above_points(
    axes: Axes, points: Sequence[tuple[float, float, str, str]], *, size: float = 6.5
) -> None:
    """Names points that stand side by side: (x, y, text, colour), in slanted words above them all.

    Where points are too close the words move apart, each with a line to its point. Needs final
    axis limits.
    """
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    width_points = axes.get_window_extent().width * 72 / axes.figure.dpi
    height_points = axes.get_window_extent().height * 72 / axes.figure.dpi
    top = max((y for _, y, _, _ in points), default=0.0)
    gap = (right - left) * 2.0 * size / width_points
    for (x, y, text, colour), place in zip(
        points, spread([point[0] for point in points], gap), strict=True
    ):
        dx = (place - x) * width_points / (right - left)
        dy = (top - y) * height_points / (high - low) + 13
        axes.annotate(
            text,
            (x, y),
            xytext=(dx, dy),
            textcoords="offset points",
            rotation=40,
            rotation_mode="anchor",
            ha="left",
            va="center",
            fontsize=size,
            color=text_colour(colour),
            arrowprops={
                **{"arrowstyle": "-", "color": colour, "linewidth": 0.5},
                **{"relpos": (0, 0), "shrinkA": 0, "shrinkB": 3},
            },
        )


def around_points(
    axes: Axes,
    points: Sequence[tuple[float, float, float, str, str]],
    *,
    lines_y: Sequence[float] = (),
    bars: Sequence[tuple[float, float, float]] = (),
    size: float = 7.5,
) -> None:
    """Names points: (x, y, radius in points of type, text, colour), clear of each other.

    Each label takes one of the places around its point, such that together they cover least of
    the points, of each other, of the horizontal lines at `lines_y` and of the horizontal `bars`
    (from x, to x, y). Needs final axis limits.
    """
    scale = axes.figure.dpi / 72
    frame = axes.get_window_extent()
    centres = [axes.transData.transform(point[:2]) for point in points]
    fixed = [
        _around((float(x), float(y)), point[2] * scale)
        for (x, y), point in zip(centres, points, strict=True)
    ]
    for y in lines_y:
        height = axes.transData.transform((0, y))[1]
        fixed.append(Bbox([[frame.x0, height - 1], [frame.x1, height + 1]]))
    for left, right, y in bars:
        ends = axes.transData.transform([(left, y), (right, y)])
        fixed.append(Bbox([ends[0] - (3, 3), ends[1] + (3, 3)]))
    places = [_places(axes, point, size, scale) for point in points]
    for point, place in zip(points, _best(places, fixed, frame.padded(-3 * scale)), strict=True):
        x, y, radius, text, colour = point
        _label(axes, (x, y), radius + 3 + place.reach, place.angle, text, size, colour)
        if place.leader:
            axes.annotate(
                "",
                (x, y),
                xytext=_offset(radius + 2 + place.reach, place.angle),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkB": 0},
            )


@dataclass(frozen=True)
class _Place:
    """A place of a label: where, the box of its text and the boxes along its leader, in pixels."""

    reach: float
    angle: float
    box: Bbox
    leader: list[Bbox]


def _places(
    axes: Axes, point: tuple[float, float, float, str, str], size: float, scale: float
) -> list[_Place]:
    x, y, radius, text, colour = point
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    centre_x, centre_y = axes.transData.transform((x, y))
    places = []
    for reach, angle in product(_REACHES, _ANGLES):
        label = _label(axes, (x, y), radius + 3 + reach, angle, text, size, colour)
        box = label.get_window_extent(renderer)
        label.remove()
        leader = _leader((float(centre_x), float(centre_y)), radius, reach, angle, scale)
        places.append(_Place(reach, angle, box, leader))
    return places


def _best(places: list[list[_Place]], fixed: list[Bbox], frame: Bbox) -> list[_Place]:
    """One place for each label, by letting each in turn take its best until none moves."""
    costs = [
        [_cost(place, fixed) + 3 * _outside(place.box, frame) for place in of] for of in places
    ]
    chosen = [min(range(len(own)), key=own.__getitem__) for own in costs]
    for _ in range(20):
        before = list(chosen)
        for index, own in enumerate(places):
            others = [places[i][k] for i, k in enumerate(chosen) if i != index]
            taken = [box for other in others for box in (other.box, *other.leader)]
            total = [costs[index][k] + _cost(place, taken) for k, place in enumerate(own)]
            chosen[index] = min(range(len(own)), key=total.__getitem__)
        if chosen == before:
            break
    return [of[k] for of, k in zip(places, chosen, strict=True)]


def _cost(place: _Place, taken: list[Bbox]) -> float:
    """What a place covers, in square pixels; a crossed leader and a long one cost, too."""
    covered = sum(_overlap(place.box, other) for other in taken)
    crossed = sum(_overlap(dot, other) > 0 for dot in place.leader for other in taken)
    return covered + 60 * crossed + place.reach


def _around(centre: tuple[float, float], reach: float) -> Bbox:
    x, y = centre
    return Bbox([[x - reach, y - reach], [x + reach, y + reach]])


def _leader(
    centre: tuple[float, float], radius: float, reach: float, angle: float, scale: float
) -> list[Bbox]:
    """Small boxes along the line from a point's edge to its label, where there is such a line."""
    dots = []
    steps = 8 if reach > _LEADER_FROM else 0
    for step in range(steps):
        dx, dy = _offset(scale * (radius + 2 + reach * step / steps), angle)
        x, y = centre[0] + dx, centre[1] + dy
        dots.append(_around((x, y), 1.0))
    return dots


def _offset(distance: float, angle: float) -> tuple[float, float]:
    return (
        distance * math.cos(math.radians(angle)),
        distance * math.sin(math.radians(angle)),
    )


def _label(
    axes: Axes,
    point: tuple[float, float],
    distance: float,
    angle: float,
    text: str,
    size: float,
    colour: str,
) -> Annotation:
    dx, dy = _offset(distance, angle)
    flat = abs(dx) < 1e-6
    steep = abs(dy) < 1e-6
    return axes.annotate(
        text,
        point,
        xytext=(dx, dy),
        textcoords="offset points",
        ha="center" if flat else "left" if dx > 0 else "right",
        va="center" if steep else "bottom" if dy > 0 else "top",
        fontsize=size,
        color=text_colour(colour),
        linespacing=1.05,
    )


def _overlap(first: Bbox, second: Bbox) -> float:
    both = Bbox.intersection(first, second)
    return 0.0 if both is None else both.width * both.height


def _outside(box: Bbox, frame: Bbox) -> float:
    return box.width * box.height - _overlap(box, frame)
