"""What 16-bit weights lose of their steps: loss, accuracy and share applied, a row a treatment."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from ..records.collected import Collected
from ..text.names import listed, method_title, task_title
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
from .treated import SECTION, TITLES, Treated, tasks, treated

TITLE = "Rounding: what 16-bit weights take of their steps"
# Between the rows of two methods, in rows.
GAP = 0.6


def figure_rounding(collected: Collected) -> Figure:
    """The rounding section of the study's largest model."""
    reason = collected.why_empty(SECTION)
    if reason:
        return placeholder(reason, TITLE)
    model = collected.largest_model(SECTION)
    found = [e for e in treated(collected) if e.model == model and e.cell is not None]
    places = _places(found)
    figure = new_figure(PAGE, 0.9 + 0.17 * (max(places) + 2))
    # Labels are wider when saved than when laid out.
    figure.set_layout_engine("constrained", rect=(0.02, 0, 0.98, 1))
    panels = figure.subplots(1, 4, sharey=True, width_ratios=[1, 1, 1, 1])
    _dots(panels[0], found, places, [each.loss for each in found])
    _decades(panels[0], [each.loss for each in found])
    _accuracy(panels[1], found, places)
    _dots(panels[2], found, places, [each.share for each in found])
    _groups(panels[3], found, places)
    subject = f"{listed(map(task_title, tasks(collected)))}, {model}"
    titles = {
        "loss of the last epoch\n(nats a token)": subject,
        "test accuracy (%)": "",
        "share of the step applied,\nall weights": "",
        "the same, by group": "",
    }
    for axes, (label, title) in zip(panels, titles.items(), strict=True):
        axes.set_xlabel(label)
        axes.set_title(title)
        quiet_grid(axes, "x")
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(places, [TITLES[each.treatment] for each in found])
    panels[0].set_ylim(max(places) + 0.7, -1.3)
    for axes in panels[2:]:
        _whole(axes)
    _name_methods(panels[0], found, places)
    return figure


def _places(found: Sequence[Treated]) -> list[float]:
    """The row of each: those of a method together, under its name."""
    places: list[float] = []
    place, before = 0.0, None
    for each in found:
        key = (each.method, each.rank)
        if key != before:
            place += (GAP if before else 0.0) + 1.0
            before = key
        places.append(place)
        place += 1.0
    return [place - 1.0 for place in places]


def _name_methods(axes: Axes, found: Sequence[Treated], places: Sequence[float]) -> None:
    named = set()
    for each, place in zip(found, places, strict=True):
        key = (each.method, each.rank)
        if key not in named:
            named.add(key)
            axes.annotate(
                method_title(*key),
                (0, place - 0.85),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="center",
                fontsize=8,
                fontweight="bold",
                color=INK,
                annotation_clip=False,
            )


def _dots(
    axes: Axes, found: Sequence[Treated], places: Sequence[float], values: Sequence[float | None]
) -> None:
    for each, place, value in zip(found, places, values, strict=True):
        if value is None:
            axes.text(
                0.5,
                place,
                "\N{EN DASH}",
                transform=axes.get_yaxis_transform(),
                color=QUIET,
                ha="center",
                va="center",
            )
            continue
        colour, marker = method_colour(each.method), method_marker(each.method)
        axes.plot([value], [place], color=colour, marker=marker, markersize=4.5)


def _accuracy(axes: Axes, found: Sequence[Treated], places: Sequence[float]) -> None:
    values = []
    for each, place in zip(found, places, strict=True):
        cell = each.cell
        values.append(None if cell is None or cell.accuracy is None else 100 * cell.accuracy)
        if cell is not None and cell.widest is not None:
            low, high = cell.widest
            axes.hlines(
                place, 100 * low, 100 * high, color=method_colour(each.method), alpha=0.45, lw=0.9
            )
    _dots(axes, found, places, values)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -2), min(high, 102))  # an interval of few seeds goes beyond


def _groups(axes: Axes, found: Sequence[Treated], places: Sequence[float]) -> None:
    """From the least group to the most, with the names of both."""
    for each, place in zip(found, places, strict=True):
        shares = each.shares or {}
        colour = method_colour(each.method)
        if not shares:
            continue
        least, most = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
        axes.hlines(place, shares[least], shares[most], color=colour, alpha=0.45, lw=0.9)
        axes.plot(list(shares.values()), [place] * len(shares), color=colour, marker="|", ls="")
        if shares[most] - shares[least] > 0.1:
            axes.annotate(
                least,
                (shares[least], place),
                xytext=(1, 1),
                textcoords="offset points",
                ha="left",
                va="bottom",
                fontsize=6,
                color=QUIET,
                annotation_clip=False,
            )


def _whole(axes: Axes) -> None:
    """From nothing to all of the step, with a line at all of it."""
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.04), max(high, 1.08))
    axes.axvline(1, color=QUIET, linewidth=0.7, zorder=0)


def _decades(axes: Axes, values: Sequence[float | None]) -> None:
    known = [value for value in values if value]
    if max(known, default=1.0) < 10 * min(known, default=math.inf):
        return
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
