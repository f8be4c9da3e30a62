"""Figures 4 and 5: training loss and validation accuracy over the steps, LoRA against LOMO."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lomo.system.files import read_lines

from ..records.accuracy import Cell, accuracy_cells, tasks_of
from ..records.collected import Collected
from ..text.labels import line_ends
from ..text.names import METHODS, method_title, task_title
from ..text.style import COLUMN, method_colour, method_marker, new_figure, placeholder, quiet_grid

SECTION = "superglue"
PAPER_METHODS = ("lora", "lomo")
TITLES = {"loss": "Figure 4: training loss", "accuracy": "Figure 5: validation accuracy"}
# A line through single steps is noise: the mean over this share of the steps is drawn on top.
SMOOTHED_SHARE = 0.06

History = list[dict[str, Any]]


def figure_loss(collected: Collected) -> Figure:
    """Figure 4 of the study: its largest model on BoolQ, else on its first task.

    LoRA and LOMO as in the paper, and methods of other packages; where the study has none of
    them, all that it trains.
    """
    return _figure(collected, "loss")


def figure_accuracy(collected: Collected) -> Figure:
    """Figure 5 of the study: the same runs as Figure 4."""
    return _figure(collected, "accuracy")


def _figure(collected: Collected, which: str) -> Figure:
    reason = collected.why_empty(SECTION)
    if reason:
        return placeholder(reason, TITLES[which])
    model = collected.largest_model(SECTION)
    cells = [cell for cell in accuracy_cells(collected, SECTION) if cell.model == model]
    tasks = tasks_of(collected, SECTION)
    task = "boolq" if "boolq" in tasks else tasks[0]
    trained = dict.fromkeys(cell.method for cell in cells if cell.method != "zero_shot")
    asked = [m for m in trained if m in PAPER_METHODS or m not in METHODS]
    histories = {}
    for method in asked or trained:
        chosen = [c for c in cells if (c.method, c.task, c.status) == (method, task, "ok")]
        if chosen and (history := _history(collected, chosen[0])):
            histories[method] = history
    if not histories:
        return placeholder(f"no history on {task_title(task)}", TITLES[which])
    draw = _draw_loss if which == "loss" else _draw_accuracy
    return draw(histories, f"{task_title(task)}, {model}", collected.plan.study.selection)


def _history(collected: Collected, cell: Cell) -> History:
    """The events of the trial that the protocol picked, first seed."""
    return read_lines(collected.run_folder(cell.run_ids[0]) / "history.jsonl")


def _draw_loss(histories: dict[str, History], title: str, _: str) -> Figure:
    figure = new_figure(COLUMN, 2.2)
    axes = figure.subplots()
    ends, highest, last = [], 0.0, 0
    for method, history in histories.items():
        steps = [e for e in history if e["event"] == "step" and e["loss"] is not None]
        if not steps:
            continue
        x = [event["step"] for event in steps]
        loss = pd.Series([event["loss"] for event in steps])
        window = max(5, round(SMOOTHED_SHARE * len(loss)))
        smooth = loss.rolling(window, min_periods=1, center=True).mean()
        colour = method_colour(method)
        axes.plot(x, loss, color=colour, alpha=0.22, linewidth=0.7)
        axes.plot(x, smooth, color=colour)
        ends.append((float(smooth.iloc[-1]), method_title(method), colour))
        highest, last = max(highest, float(loss.quantile(0.995))), max(last, x[-1])
    axes.set_xlim(0, last)
    axes.set_ylim(0, highest * 1.05)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("training loss (nats a token)")
    axes.set_title(title)
    quiet_grid(axes, "y")
    line_ends(axes, ends)
    return figure


def _draw_accuracy(histories: dict[str, History], title: str, split: str) -> Figure:
    figure = new_figure(COLUMN, 2.2)
    axes = figure.subplots()
    ends, last = [], 0
    for method, history in histories.items():
        points = [e for e in history if e["event"] == "evaluation" and e["split"] == split]
        if not points:
            continue
        x = [event["step"] for event in points]
        y = [100 * event["value"] for event in points]
        colour = method_colour(method)
        axes.plot(x, y, color=colour, marker=method_marker(method), markersize=3.5)
        ends.append((y[-1], method_title(method), colour))
        last = max(last, x[-1])
    axes.set_xlim(0, last * 1.02)
    axes.margins(y=0.1)
    axes.set_xlabel("optimizer step")
    words = {"dev": "validation accuracy (%)", "test": "accuracy on the reported set (%)"}
    axes.set_ylabel(words[split])
    axes.set_title(title)
    quiet_grid(axes, "y")
    axes.set_ylim(*axes.get_ylim())
    line_ends(axes, ends)
    return figure
