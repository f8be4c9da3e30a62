"""What a figure shows, as text: its words and the numbers of all that is drawn, without places of
labels, which are the font's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def told(figure: Figure) -> str:
    """One line a thing that is drawn."""
    words = [legend.get_texts() for legend in figure.legends]
    lines = [f"legend: {', '.join(text.get_text() for text in texts)}" for texts in words]
    lines += [f"text: {text.get_text()!r}" for text in figure.texts]
    for number, axes in enumerate(figure.axes):
        lines += [f"panel {number}", *(f"  {line}" for line in _panel(axes))]
    return "\n".join(lines) + "\n"


def _panel(axes: Any) -> Iterator[str]:
    yield f"title: {axes.get_title(loc='left') or axes.get_title()!r}"
    for name in ("x", "y"):
        low, high = getattr(axes, f"get_{name}lim")()
        ticks = [text.get_text() for text in getattr(axes, f"get_{name}ticklabels")()]
        words = f" {', '.join(ticks)}" if any(map(_is_word, ticks)) else ""
        yield f"{name}: {getattr(axes, f'get_{name}label')()!r} {_numbers((low, high))}{words}"
    for line in axes.lines:
        look = f"{to_hex(line.get_color())} {line.get_marker()} {line.get_linestyle()}"
        face = to_hex(line.get_markerfacecolor())
        yield f"line {look} {face}: {_points(line.get_xydata())}"
    for one in axes.collections:
        colour = to_hex(one.get_facecolor()[0]) if len(one.get_facecolor()) else ""
        if isinstance(one, PathCollection):
            sizes = _numbers(one.get_sizes())
            yield f"points {colour} {sizes}: {_points(one.get_offsets())}"
        elif not isinstance(one, PolyCollection):
            ends = (path.vertices for path in one.get_paths())
            yield f"spans: {' | '.join(_points(end) for end in ends)}"
    for patch in axes.patches:
        if isinstance(patch, Rectangle):
            (left, low), wide, high = patch.get_xy(), patch.get_width(), patch.get_height()
            yield f"bar {to_hex(patch.get_facecolor())}: {_numbers((left, low, wide, high))}"
    for text in axes.texts:
        if text.get_text():
            yield f"text: {text.get_text()!r}"
    if axes.get_legend():
        yield f"legend: {', '.join(text.get_text() for text in axes.get_legend().get_texts())}"


def _is_word(text: str) -> bool:
    """Numbers beside an axis depend on the room for them."""
    return bool(text) and text.strip("0123456789.,\N{MINUS SIGN}") != ""


def _points(points: Any) -> str:
    return " ".join(f"({_numbers(point)})" for point in np.asarray(points))


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{0.0 if abs(value) < 1e-12 else value:.5g}" for value in values)
