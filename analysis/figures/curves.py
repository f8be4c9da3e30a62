"""Training over steps, tokens and seconds: Figures 4 and 5, and the same of all tasks and methods.

A line is the mean over the seeds; its band goes from the least seed to the most.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from ..records.accuracy import Cell, accuracy_cells, find, tasks_of
from ..records.collected import Collected
from ..records.histories import Curve, Over, Quantity, curve, untrained
from ..text.labels import line_ends
from ..text.names import METHODS, method_title, task_title
from ..text.style import (
    COLUMN,
    PAGE,
    method_colour,
    method_legend,
    method_marker,
    new_figure,
    placeholder,
    quiet_grid,
)

SECTION = "superglue"
PAPER_METHODS = ("lora", "lomo")
TITLES = {"loss": "Figure 4: training loss", "accuracy": "Figure 5: validation accuracy"}
QUANTITIES: tuple[Quantity, ...] = ("loss", "accuracy", "grad_norm")
OVER: dict[Over, str] = {
    "steps": "optimizer step",
    "tokens": "tokens trained on (thousands)",
    "seconds": "training time (s)",
}
THOUSAND = {"tokens": 1000.0}
MOST_COLUMNS = 3
# Marks along a line, so that methods can be told apart without colours.
NUM_MARKS = 4
UNTRAINED: dict[str, Any] = {"linewidth": 0.8, "linestyle": (0, (4, 2))}


def figure_loss(collected: Collected) -> Figure:
    """Figure 4 of the study: its largest model on BoolQ, else on its first task.

    LoRA and LOMO as in the paper, and methods of other packages; where the study has none of
    them, all that it trains.
    """
    return _of_paper(collected, "loss")


def figure_accuracy(collected: Collected) -> Figure:
    """Figure 5 of the study: the same runs as Figure 4."""
    return _of_paper(collected, "accuracy")


def figure_training(collected: Collected, quantity: Quantity, over: Over) -> Figure:
    """One quantity of the study's largest model: a panel a task, a line a method."""
    reason = collected.why_empty(SECTION)
    title = f"{_ylabel(collected, quantity)} over {over}"
    if reason:
        return placeholder(reason, title)
    cells = _cells(collected)
    tasks = tasks_of(collected, SECTION)
    curves = {task: _curves(collected, cells, task, quantity, over) for task in tasks}
    if not any(curves.values()):
        return placeholder("no history tells it", title)
    columns = min(len(tasks), MOST_COLUMNS)
    rows = math.ceil(len(tasks) / columns)
    figure = new_figure(PAGE if columns > 1 else COLUMN, 0.55 + 1.45 * rows)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, task in zip_longest(panels.flat, tasks):
        if task is None:
            axes.set_axis_off()
            continue
        base = untrained(collected, cells, task) if quantity == "accuracy" else None
        _panel(axes, curves[task], over, base)
        axes.set_title(task_title(task))
    if quantity != "accuracy":
        values = [y for of in curves.values() for each in of for y in each.mean]
        _decades(panels.flat[0], values)
    figure.supxlabel(f"{OVER[over]}, {collected.largest_model(SECTION)}", fontsize=8)
    figure.supylabel(_ylabel(collected, quantity), fontsize=8)
    _legend(figure, [each.method for of in curves.values() for each in of], quantity)
    return figure


def _cells(collected: Collected) -> list[Cell]:
    model = collected.largest_model(SECTION)
    return [cell for cell in accuracy_cells(collected, SECTION) if cell.model == model]


def _curves(
    collected: Collected, cells: Sequence[Cell], task: str, quantity: Quantity, over: Over
) -> list[Curve]:
    """The curves of a task, a method each: its first variant that has one."""
    found: dict[str, Curve] = {}
    for cell in cells:
        if cell.task == task and cell.method not in ("zero_shot", *found):
            told = curve(collected, cell, quantity, over)
            if told is not None:
                found[cell.method] = told
    return list(found.values())


def _panel(axes: Axes, curves: Sequence[Curve], over: Over, base: float | None) -> None:
    if base is not None:
        axes.axhline(base, color=method_colour("zero_shot"), **UNTRAINED)
    for number, each in enumerate(curves):
        _line(axes, each, over, width=1.1, shift=number / len(curves))
    axes.set_xlim(left=0)
    quiet_grid(axes, "y")


def _decades(axes: Axes, values: Sequence[float]) -> None:
    """Powers of ten, on this panel and all that share its axis, where at least two are spanned."""
    if max(values) < 100 * min((value for value in values if value > 0), default=math.inf):
        return
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _line(
    axes: Axes, each: Curve, over: Over, *, width: float, marked: bool = True, shift: float = 0.0
) -> None:
    """A curve with its band; its marks begin at `shift` of the way to the second one."""
    x = [value / THOUSAND.get(over, 1.0) for value in each.x]
    colour = method_colour(each.method)
    if each.num_seeds > 1:
        axes.fill_between(x, each.least, each.most, color=colour, alpha=0.15, linewidth=0)
    step = max(1, len(x) // NUM_MARKS)
    axes.plot(
        x,
        each.mean,
        color=colour,
        linewidth=width + 0.7 * (each.method == "sgd"),  # LOMO takes the same steps, and lies on it
        marker=method_marker(each.method) if marked else "",
        markersize=3,
        markevery=(int(shift * step), step),
    )
    if not each.whole:
        axes.plot(x[-1:], each.mean[-1:], color=colour, marker="x", markersize=6)


def _legend(figure: Figure, methods: Collection[str], quantity: Quantity) -> None:
    untrained = Line2D(
        *([], []),
        color=method_colour("zero_shot"),
        label=method_title("zero_shot"),
        **UNTRAINED,
    )
    method_legend(figure, methods, *([untrained] if quantity == "accuracy" else []))


def _ylabel(collected: Collected, quantity: Quantity) -> str:
    if quantity == "accuracy":
        split = {"dev": "validation accuracy", "test": "accuracy on the reported set"}
        return f"{split[collected.plan.study.selection]} (%)"
    return {"loss": "training loss (nats a token)", "grad_norm": "gradient norm"}[quantity]


def _of_paper(collected: Collected, quantity: Quantity) -> Figure:
    reason = collected.why_empty(SECTION)
    if reason:
        return placeholder(reason, TITLES[quantity])
    cells, tasks = _cells(collected), tasks_of(collected, SECTION)
    task = "boolq" if "boolq" in tasks else tasks[0]
    curves = _curves(collected, cells, task, quantity, "steps")
    curves = [c for c in curves if c.method in PAPER_METHODS or c.method not in METHODS] or curves
    if not curves:
        return placeholder(f"no history on {task_title(task)}", TITLES[quantity])
    figure = new_figure(COLUMN, 2.2)
    axes = figure.subplots()
    if quantity == "loss":
        _single_steps(collected, axes, [c for c in cells if c.task == task], curves)
    for each in curves:
        _line(axes, each, "steps", width=1.6, marked=quantity == "accuracy")
    axes.set_xlim(0, 1.02 * max(each.x[-1] for each in curves))
    axes.margins(y=0.1)
    if quantity == "loss":
        axes.set_ylim(bottom=0)
    axes.set_xlabel(OVER["steps"])
    axes.set_ylabel(_ylabel(collected, quantity))
    axes.set_title(f"{task_title(task)}, {collected.largest_model(SECTION)}")
    quiet_grid(axes, "y")
    axes.set_ylim(*axes.get_ylim())
    line_ends(axes, [(c.mean[-1], method_title(c.method), method_colour(c.method)) for c in curves])
    return figure


def _single_steps(
    collected: Collected, axes: Axes, cells: Sequence[Cell], curves: Sequence[Curve]
) -> None:
    """Thin behind a lone seed's line; over several seeds the band shows the spread."""
    for each in curves:
        cell = find(cells, method=each.method)
        told = cell and curve(collected, cell, "loss", "steps", smooth=False)
        if told and each.num_seeds == 1:
            axes.plot(told.x, told.mean, color=method_colour(each.method), alpha=0.22, lw=0.7)
