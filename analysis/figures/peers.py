"""The figure of peers: memory of a step against its time, both over the floor's."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..records.collected import Collected
from ..records.peers import FLOOR, SECTION, Entry, entries
from ..text.labels import above_points, around_points
from ..text.names import METHODS
from ..text.style import (
    INK,
    PAGE,
    QUIET,
    method_colour,
    method_marker,
    new_figure,
    placeholder,
    quiet_grid,
)

TITLE = "Peers: memory and time of a step"
# Points within both ratios are drawn again in a panel of their own, and named there.
NEAR_TIME, NEAR_MEMORY = 1.4, 1.08
# And those whose memory is the floor's within this stand in one row.
IN_A_ROW = 0.012
# torch's optimizers take the colours of the methods that are built on them.
_SAME_AS = {"torch_sgd": "sgd", "torch_adamw": "adamw"}


def figure_peers(collected: Collected) -> Figure:
    """The figure of the study, for its first model and setting."""
    found = entries(collected)
    if not found:
        return placeholder(f"the study has no {SECTION} section", TITLE)
    setting = (found[0].model, found[0].activation_checkpointing)
    drawn = [
        entry
        for entry in found
        if (entry.model, entry.activation_checkpointing) == setting and entry.time_ratios
    ]
    if not drawn:
        return placeholder(collected.why_empty(SECTION) or "the floor was not measured", TITLE)
    return _draw(drawn)


def _draw(drawn: Sequence[Entry]) -> Figure:
    near = [entry for entry in drawn if _is_near(entry)]
    far = [entry for entry in drawn if not _is_near(entry)]
    both = len(near) > 2 and bool(far)
    figure = new_figure(PAGE, 3.8)
    panels = list(figure.subplots(1, 2, width_ratios=[1, 1.35])) if both else [figure.subplots()]
    for axes in panels:
        axes.set_xlabel("time of a step, over the floor's")
        quiet_grid(axes, "both")
        axes.axvline(1, color=QUIET, linewidth=0.6, zorder=0)
        axes.axhline(1, color=QUIET, linewidth=0.6, zorder=0)
    panels[0].set_ylabel("peak memory, over the floor's")
    _points(panels[0], drawn)
    if both:
        panels[0].set_title(f"{drawn[0].model}, all")
        panels[1].set_title("near the floor")
        _points(panels[1], near)
        # Room for the slanted words above the row, and behind its last point.
        panels[1].set_ylim(top=max(panels[1].get_ylim()[1], 1 + 0.05))
        left, right = panels[1].get_xlim()
        panels[1].set_xlim(right=right + 0.08 * (right - left))
        _mark(panels[0], panels[1])
    # Labels are placed by what they cover, so the layout must be known.
    figure.draw_without_rendering()
    _names(panels[0], far if both else drawn, among=drawn)
    if both:
        row = [entry for entry in near if abs((entry.memory_ratio or 0) - 1) < IN_A_ROW]
        above_points(panels[1], [_named(entry) for entry in row])
        _names(panels[1], [entry for entry in near if entry not in row], among=near)
    return figure


def _is_near(entry: Entry) -> bool:
    assert entry.memory_ratio is not None and entry.time_ratio is not None
    return entry.time_ratio <= NEAR_TIME and entry.memory_ratio <= NEAR_MEMORY


def _points(axes: Axes, drawn: Sequence[Entry]) -> None:
    for entry in drawn:
        x, y, colour = entry.time_ratio, entry.memory_ratio, _colour(entry)
        assert x is not None and y is not None
        axes.hlines(y, min(entry.time_ratios), max(entry.time_ratios), color=colour, linewidth=0.9)
        axes.plot(
            x,
            y,
            color=colour,
            marker=_marker(entry),
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    axes.margins(0.16, 0.16)


def _mark(whole: Axes, part: Axes) -> None:
    """Frames in `whole` what `part` shows."""
    (left, right), (low, high) = part.get_xlim(), part.get_ylim()
    frame = Rectangle((left, low), right - left, high - low, fill=False, ec=QUIET, lw=0.6, ls=":")
    whole.add_patch(frame)


def _names(axes: Axes, drawn: Sequence[Entry], *, among: Sequence[Entry]) -> None:
    points = [(x, y, 2.5, text, colour) for x, y, text, colour in map(_named, drawn)]
    bars = [(min(e.time_ratios), max(e.time_ratios), e.memory_ratio or 0.0) for e in among]
    around_points(axes, points, lines_y=[1.0], bars=bars, size=6.5)


def _named(entry: Entry) -> tuple[float, float, str, str]:
    return entry.time_ratio or 0.0, entry.memory_ratio or 0.0, entry.title, _colour(entry)


def _colour(entry: Entry) -> str:
    if entry.method == FLOOR:
        return QUIET
    method = _SAME_AS.get(entry.method, entry.method)
    return method_colour(method) if method in METHODS else INK


def _marker(entry: Entry) -> str:
    method = _SAME_AS.get(entry.method, entry.method)
    return method_marker(method) if method in METHODS else "X" if entry.method != FLOOR else "s"
