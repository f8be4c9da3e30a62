"""How forgiving a method is: accuracy over learning rate, and the expected best of k trials."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..records.collected import Collected
from ..records.tuning import SECTION, Tuned, tuned
from ..text.names import method_title
from ..text.style import PAGE, method_colour, method_marker, new_figure, placeholder, quiet_grid

TITLE = "Accuracy over learning rate, by method"


def figure_tuning(collected: Collected) -> Figure:
    """A column a method of the study's largest model: above its trials, below their best of k."""
    reason = collected.why_empty(SECTION)
    found = [] if reason else _of_largest(collected)
    if not found:
        return placeholder(reason or "no trial has all its records", TITLE)
    figure = new_figure(PAGE, 2.9)
    panels = figure.subplots(2, len(found), squeeze=False, sharey=True)
    for column, each in enumerate(found):
        _trials(panels[0][column], each)
        _best_of(panels[1][column], each)
    split = {"dev": "accuracy on the split that selects", "test": "accuracy on the reported set"}
    figure.supylabel(f"{split[collected.plan.study.selection]} (%)", fontsize=8)
    panels[0][0].set_xlabel("learning rate", loc="left")
    panels[1][0].set_xlabel("trials: expected best of k", loc="left")
    return figure


def _of_largest(collected: Collected) -> Sequence[Tuned]:
    model = collected.largest_model(SECTION)
    return [each for each in tuned(collected) if each.model == model]


def _trials(axes: Axes, each: Tuned) -> None:
    """Each trial with its seeds; the range within 5 points of the best is shaded."""
    colour = method_colour(each.method)
    rates = [point.rate for point in each.points]
    axes.axvspan(each.near[0].rate, each.near[-1].rate, color=colour, alpha=0.15, linewidth=0)
    low = [100 * min(point.by_seed) for point in each.points]
    high = [100 * max(point.by_seed) for point in each.points]
    axes.vlines(rates, low, high, color=colour, linewidth=0.8, alpha=0.6)
    scores = [100 * point.score for point in each.points]
    axes.plot(rates, scores, color=colour, linewidth=1, marker=method_marker(each.method))
    axes.lines[-1].set_markersize(3.5)
    axes.set_xscale("log")
    axes.set_title(method_title(each.method))
    quiet_grid(axes, "y")


def _best_of(axes: Axes, each: Tuned) -> None:
    colour = method_colour(each.method)
    ks = range(1, len(each.points) + 1)
    told = [found for k in ks if (found := each.best_of(k)) is not None]
    low, high = ([100 * band[end] for _, band in told] for end in (0, 1))
    axes.fill_between(ks, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(ks, [100 * value for value, _ in told], color=colour, linewidth=1.4)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    quiet_grid(axes, "y")
