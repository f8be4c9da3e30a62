"""The overview: memory by part, speed and accuracy of every method, side by side."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from ..records.collected import Collected
from ..records.costs import Costs, costs, zero_shot
from ..text.names import PARTS, method_order, method_title
from ..text.style import (
    INK,
    PAGE,
    PART_COLOURS,
    QUIET,
    method_colour,
    method_marker,
    new_figure,
    placeholder,
    quiet_grid,
)
from ..text.units import decimals, unit_for

TITLE = "Overview"


def figure_overview(collected: Collected) -> Figure:
    """Memory, speed and accuracy of the study's largest scored model."""
    found = costs(collected)
    if isinstance(found, str):
        return placeholder(found, TITLE)
    asked = found.measured.keys() | found.timed.keys() | found.averages.keys()
    methods = sorted(asked, key=method_order)
    figure = new_figure(PAGE, 1.35 + 0.3 * len(methods))
    memory, speed, scores = figure.subplots(1, 3, sharey=True, width_ratios=(1.5, 0.9, 1.1))
    _memory(memory, found, methods)
    _speed(speed, found, methods)
    _accuracy(scores, found, methods)
    memory.set_yticks(range(len(methods)), [method_title(method) for method in methods])
    memory.set_ylim(len(methods) - 0.4, -0.6)
    for axes in (memory, speed, scores):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    for tick in memory.get_yticklabels():
        tick.set_color(INK)
        tick.set_fontsize(8.5)
    return figure


def _memory(axes: Axes, found: Costs, methods: list[str]) -> None:
    unit = unit_for(row.peak_bytes for row in found.measured.values())
    highest = unit.of(max(row.peak_bytes for row in found.measured.values()))
    shown = [
        part
        for part in PARTS
        if any(
            getattr(r, f"at_peak_{part}_bytes") > 0.002 * r.peak_bytes
            for r in found.measured.values()
        )
    ]
    for y, method in enumerate(methods):
        row = found.measured.get(method)
        if row is None:
            text = "no training" if method == "zero_shot" else "not measured"
            axes.text(0.01 * highest, y, text, va="center", color=QUIET, fontsize=7.5)
            continue
        left = 0.0
        for part in shown:
            width = unit.of(getattr(row, f"at_peak_{part}_bytes"))
            axes.barh(
                y,
                width,
                left=left,
                height=0.62,
                color=PART_COLOURS[part],
                edgecolor="white",
                linewidth=0.5,
            )
            left += width
        total = unit.text(row.peak_bytes)
        axes.text(left + 0.015 * highest, y, total, va="center", fontsize=7.5)
    axes.set_xlim(0, highest * 1.16)
    size, rest = found.setting.split(", ", 1)
    axes.set_xlabel(f"peak memory of a training step ({unit.name})\n{size},\n{rest}")
    quiet_grid(axes, "x")
    axes.figure.legend(
        handles=[Patch(color=PART_COLOURS[part], label=PARTS[part]) for part in shown],
        loc="outside upper left",
        ncols=len(shown),
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.2,
        handletextpad=0.4,
    )


def _speed(axes: Axes, found: Costs, methods: list[str]) -> None:
    speeds = {m: r.tokens_per_s_per_device for m, r in found.timed.items()}
    known = [speed for speed in speeds.values() if speed]
    highest = max(known, default=1.0)
    for y, method in enumerate(methods):
        speed = speeds.get(method)
        if not speed:
            if method != "zero_shot":
                left = 0.02 * highest
                axes.text(left, y, "not measured", va="center", color=QUIET, fontsize=7.5)
            continue
        axes.barh(y, speed, height=0.62, color=method_colour(method), alpha=0.85)
        axes.text(speed + 0.02 * highest, y, decimals(speed, 0), va="center", fontsize=7.5)
    axes.set_xlim(0, highest * 1.3)
    size, rest = found.timed_setting.split(", ", 1)
    axes.set_xlabel(f"tokens/s per device\n{size},\n{rest}")
    axes.locator_params(axis="x", nbins=3)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    quiet_grid(axes, "x")


def _accuracy(axes: Axes, found: Costs, methods: list[str]) -> None:
    for y, method in enumerate(methods):
        cell = found.averages.get(method)
        if cell is None or cell.accuracy is None:
            continue
        low, high = cell.widest or (cell.accuracy, cell.accuracy)
        colour = method_colour(method)
        axes.hlines(y, 100 * low, 100 * high, color=colour, linewidth=1.4, alpha=0.5)
        marker = "o" if method == "zero_shot" else method_marker(method)
        axes.plot(100 * cell.accuracy, y, marker=marker, color=colour, markersize=5.5)
        axes.annotate(
            decimals(100 * cell.accuracy, 1),
            (100 * high, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
        )
    base = zero_shot(found)
    if base is not None:
        axes.axvline(base, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    low, high = axes.get_xlim()
    axes.set_xlim(low, high + 0.16 * (high - low))
    axes.set_xlabel(f"mean test accuracy (%)\n{found.model}")
    quiet_grid(axes, "x")
