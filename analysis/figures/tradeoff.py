"""Figure 6, which the paper lacks: memory against accuracy against time, one point a method."""

from __future__ import annotations

from matplotlib.figure import Figure

from ..records.collected import Collected
from ..records.costs import Costs, costs, zero_shot
from ..text.labels import around_points
from ..text.names import method_title
from ..text.style import COLUMN, QUIET, method_colour, new_figure, placeholder, quiet_grid
from ..text.units import decimals, unit_for

TITLE = "Figure 6: memory, accuracy and time"
# Area of the marker of the slowest method, in square points of type.
LARGEST_AREA = 150.0
SMALLEST_AREA = 20.0


def figure_tradeoff(collected: Collected) -> Figure:
    """Figure 6 of the study, for its largest scored model."""
    found = costs(collected)
    if isinstance(found, str):
        return placeholder(found, TITLE)
    methods = [m for m in found.measured if m in found.averages]
    if not methods:
        return placeholder("no method has both a cost and an accuracy", TITLE)
    return _draw(found, methods)


def _draw(found: Costs, methods: list[str]) -> Figure:
    figure = new_figure(COLUMN, 2.95)
    axes = figure.subplots()
    unit = unit_for(found.measured[m].peak_bytes for m in methods)
    timed = {m: run.step_s_median for m, run in found.timed.items()}
    seconds: dict[str, float | None] = {m: timed.get(m) for m in methods}
    slowest = max((s for s in seconds.values() if s), default=1.0)
    points = []
    # The largest markers first, so that none hides another.
    for method in sorted(methods, key=lambda method: -(seconds[method] or 0.0)):
        cell = found.averages[method]
        x, y = unit.of(found.measured[method].peak_bytes), 100 * (cell.accuracy or 0.0)
        step_s = seconds[method]
        colour = method_colour(method)
        low, high = cell.widest or (y / 100, y / 100)
        axes.vlines(x, 100 * low, 100 * high, color=colour, linewidth=0.9, alpha=0.5)
        area = LARGEST_AREA * step_s / slowest if step_s else SMALLEST_AREA
        # Hollow: its time is not known.
        face, edge = (colour, "white") if step_s else ("white", colour)
        axes.scatter(x, y, s=area, facecolor=face, edgecolor=edge, alpha=0.9, linewidth=0.7)
        radius = (area / 3.14159) ** 0.5
        label = method_title(method)
        if step_s:
            label += f"\n{decimals(1000 * step_s, 0)} ms"
        points.append((x, y, radius, label, colour))
    base = zero_shot(found)
    # The trained methods fill the picture: a base model far below would squeeze them into a line.
    spans = [found.averages[m].widest or (found.averages[m].accuracy or 0.0,) * 2 for m in methods]
    low, high = min(100 * a for a, _ in spans), max(100 * b for _, b in spans)
    near = base is not None and low - (high - low) < base < high
    if near:
        low = min(low, base or low)
    reach = max(x for x, *_ in points)
    axes.set_xlim(0, reach * 1.22)
    axes.set_ylim(low - 0.12 * (high - low), high + 0.2 * (high - low))
    lines = []
    if base is not None and not near:
        where = "below" if base <= low else "above"
        axes.text(
            0.985,
            0.02,
            f"zero-shot {decimals(base, 1)} %, {where}",
            transform=axes.transAxes,
            ha="right",
            va="bottom",
            color=QUIET,
            fontsize=7.5,
        )
    elif base is not None:
        axes.axhline(base, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(
            0.985,
            base,
            "zero-shot",
            transform=axes.get_yaxis_transform(),
            ha="right",
            va="bottom",
            color=QUIET,
            fontsize=7.5,
        )
        lines.append(base)
    axes.set_xlabel(f"peak memory of a step ({unit.name})\n{found.setting}")
    axes.set_ylabel("mean test accuracy (%)")
    axes.set_title(f"{found.model}; area: time of a step,\n{found.timed_setting}")
    quiet_grid(axes, "both")
    # Labels are placed by what they cover, so the layout must be known.
    figure.draw_without_rendering()
    around_points(axes, points, lines_y=lines)
    return figure
