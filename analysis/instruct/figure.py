"""Instruction tuning over steps: training loss, and perplexity after each epoch."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..records.collected import Collected
from ..records.histories import Curve, curve
from ..text.style import (
    PAGE,
    method_colour,
    method_legend,
    method_marker,
    new_figure,
    placeholder,
    quiet_grid,
)
from .tuned import SECTION, Tuned, of_model, tuned

TITLE = "Instruction tuning: loss and perplexity"


def figure_instruct(collected: Collected) -> Figure:
    """Of the study's largest model: a line a method, its first variant; a band over the seeds."""
    reason = collected.why_empty(SECTION)
    if reason:
        return placeholder(reason, TITLE)
    model = collected.largest_model(SECTION)
    found = of_model(tuned(collected), model)
    trained: dict[str, Tuned] = {}
    for each in found:
        if each.method != "zero_shot":
            trained.setdefault(each.method, each)
    losses = _curves([curve(collected, each, "loss", "steps") for each in trained.values()])
    scores = _curves([curve(collected, each, "perplexity", "steps") for each in trained.values()])
    if not losses:
        return placeholder("no history tells it", TITLE)
    figure = new_figure(PAGE, 2.4)
    panels = figure.subplots(1, 2)
    _panel(panels[0], losses, marked=False)
    _panel(panels[1], scores, marked=True)
    split = {"dev": "what selects the epoch", "test": "the held-out examples"}
    panels[0].set_ylabel("training loss (nats a token)")
    panels[1].set_ylabel("perplexity")
    panels[1].set_title(f"on {split[collected.plan.study.selection]}")
    panels[0].set_title(model)
    method_legend(figure, [each.method for each in losses])
    return figure


def _curves(found: Sequence[Curve | None]) -> list[Curve]:
    return [each for each in found if each is not None]


def _panel(axes: Axes, curves: Sequence[Curve], *, marked: bool) -> None:
    for each in curves:
        colour = method_colour(each.method)
        if each.num_seeds > 1:
            axes.fill_between(each.x, each.least, each.most, color=colour, alpha=0.15, linewidth=0)
        axes.plot(
            each.x,
            each.mean,
            color=colour,
            linewidth=1.2 + 0.7 * (each.method == "sgd"),  # LOMO takes the same steps
            marker=method_marker(each.method) if marked else "",
            markersize=3.5,
        )
        if not each.whole:
            axes.plot(each.x[-1:], each.mean[-1:], color=colour, marker="x", markersize=6)
    axes.set_xlabel("optimizer step")
    axes.set_xlim(left=0)
    quiet_grid(axes, "y")
