"""Figure 3: methods with a rank, such as LoRA with and without LOMO, over it; a panel a task."""

from __future__ import annotations

import math
from itertools import zip_longest

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..paper.printed import value
from ..records import accuracy
from ..records.accuracy import Cell, accuracy_cells, tasks_of
from ..records.collected import Collected
from ..records.comparable import why_not_accuracy
from ..text.labels import line_ends
from ..text.names import method_title, task_title
from ..text.style import (
    COLUMN,
    PAGE,
    method_colour,
    method_marker,
    new_figure,
    placeholder,
    quiet_grid,
)

TITLE = "Figure 3: LoRA rank"
SECTION = "lora_rank"
# Panels beside each other; more tasks take further rows.
MOST_COLUMNS = 3
WITHOUT = "LOMO alone"


def figure_lora_rank(collected: Collected) -> Figure:
    """Figure 3 of the study, for its largest model."""
    reason = collected.why_empty(SECTION)
    if reason:
        return placeholder(reason, TITLE)
    model = collected.largest_model(SECTION)
    cells = [cell for cell in accuracy_cells(collected, SECTION) if cell.model == model]
    tasks = tasks_of(collected, SECTION)
    ranks = sorted({cell.rank for cell in cells if cell.rank is not None})
    # LOMO alone is the point without LoRA; Table 3's value is that of the same model and task.
    elsewhere = accuracy_cells(collected, "superglue")
    cells += [cell for cell in elsewhere if cell.model == model and cell.method == "lomo"]
    columns = min(len(tasks), MOST_COLUMNS)
    rows = math.ceil(len(tasks) / columns)
    height = 2.2 if len(tasks) <= 2 else 2.0
    figure = new_figure(PAGE if len(tasks) > 1 else COLUMN, rows * height)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for axes, task in zip_longest(panels, tasks):
        if task is None:
            axes.set_axis_off()
        else:
            _panel(collected, axes, model, task, ranks, [c for c in cells if c.task == task])
    return figure


def _panel(
    collected: Collected, axes: Axes, model: str, task: str, ranks: list[int], cells: list[Cell]
) -> None:
    ends = []
    lomo = accuracy.find(cells, method="lomo")
    columns = ([WITHOUT] if lomo and lomo.accuracy is not None else []) + [str(r) for r in ranks]
    lows, highs = [], []
    series = list(dict.fromkeys(cell.method for cell in cells if cell.rank is not None))
    for number, method in enumerate(series):
        shift = 0.12 * (number - (len(series) - 1) / 2)
        points = [
            (columns.index(str(cell.rank)), cell)
            for cell in cells
            if cell.method == method and cell.accuracy is not None
        ]
        if method == "lora_lomo" and lomo is not None and lomo.accuracy is not None:
            points.append((0, lomo))
        points.sort(key=lambda point: point[0])
        if not points:
            continue
        x = [place + shift for place, _ in points]
        y = [100 * (cell.accuracy or 0.0) for _, cell in points]
        spans = [cell.widest or (0.0, 0.0) for _, cell in points]
        colour = method_colour(method)
        axes.vlines(
            x, [100 * a for a, _ in spans], [100 * b for _, b in spans], colour, alpha=0.45, lw=0.9
        )
        axes.plot(x, y, color=colour, marker=method_marker(method), markersize=4.5)
        if method == "lora_lomo" and points[0][1].method == "lomo":
            lomo_colour = method_colour("lomo")
            axes.plot(x[:1], y[:1], color=lomo_colour, marker=method_marker("lomo"), markersize=5.5)
        ends.append((y[-1], method_title(method), colour))
        lows += [100 * a for a, _ in spans]
        highs += [100 * b for _, b in spans]
        _printed(collected, axes, model, task, method, columns)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_xlim(-0.3, len(columns) - 0.7)
    if lows:
        axes.set_ylim(min(lows) - 1, min(100.5, max(highs) + 1))
    axes.set_xlabel("LoRA rank")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(f"{task_title(task)}, {model}")
    quiet_grid(axes, "y")
    line_ends(axes, ends)


def _printed(
    collected: Collected, axes: Axes, model: str, task: str, method: str, columns: list[str]
) -> None:
    """The paper's points, hollow, where they are comparable."""
    if why_not_accuracy(collected, model) is not None:
        return
    size = collected.plan.models[model].paper
    x, y = [], []
    for place, column in enumerate(columns):
        row = f"{size}/lomo" if column == WITHOUT else f"{size}/{method}-r{column}"
        known = value("figure3_lora_rank", row, task)
        if known is not None and not (column == WITHOUT and method == "lora"):
            x.append(place)
            y.append(known)
    axes.plot(
        x,
        y,
        color=method_colour(method),
        marker=method_marker(method),
        markersize=4.5,
        markerfacecolor="white",
        linewidth=0.8,
        linestyle=(0, (3, 2)),
    )
