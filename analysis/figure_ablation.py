"""The figure of an ablation: the peak as changes are stacked, and what each of them saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.ablation import (
    PEAK_PARTS,
    SECTION,
    Entry,
    Side,
    entries,
    measured,
    predicted,
)
from analysis.collected import Collected
from analysis.names import PARTS
from analysis.predicted import read_predictions
from analysis.style import (
    INK,
    PAGE,
    PART_COLOURS,
    QUIET,
    new_figure,
    placeholder,
    quiet_grid,
    save,
    style,
)
from analysis.units import Unit, decimals, unit_for
from lomo.plan import read_plan

TITLE = "Ablation: what saves how much"
# Way -> its words, marker and colour in the right panel.
WAYS = {
    "alone": ("saved alone", "o", "#0072B2"),
    "stacked": ("saved in the stack", "D", "#D55E00"),
    "without": ("lost when left out of the full stack", "s", "#009E73"),
}


def figure_ablation(collected: Collected) -> Figure:
    """The measured ablation, for the study's first model."""
    reason = collected.why_empty(SECTION)
    if reason:
        return placeholder(reason, TITLE)
    return _figure(entries(collected.plan, measured(collected)))


def make_predicted_figure(results: Path) -> list[Path]:
    """Writes figures/predicted_ablation.* where the study has an ablation; the paths."""
    plan = read_plan(results)
    if SECTION not in plan.sections:
        return []
    found = entries(plan, predicted(read_predictions(results)))
    with style():
        return save(_figure(found), results / "figures", "predicted_ablation")


def _figure(found: Sequence[Entry]) -> Figure:
    first = [entry for entry in found if entry.row.model == found[0].row.model]
    if all(entry.stacked.found.at_peak is None for entry in first):
        return placeholder("no run of the stack has a peak", TITLE)
    return _draw(first)


def _draw(found: Sequence[Entry]) -> Figure:
    unit = unit_for(entry.stacked.found.peak_bytes for entry in found)
    figure = new_figure(PAGE, 0.85 + 0.27 * len(found))
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1], sharey=True)
    _stack(left, found, unit)
    _savings(right, found, unit)
    names = [entry.row.title if entry.is_base else f"+ {entry.row.title}" for entry in found]
    left.set_yticks(range(len(found)), names)
    left.set_ylim(len(found) - 0.45, -0.55)
    for label in left.get_yticklabels():
        label.set_color(INK)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    left.set_title(f"Peak of a step, {found[0].row.model}")
    right.set_title("What one change is worth")
    return figure


def _stack(axes: Axes, found: Sequence[Entry], unit: Unit) -> None:
    """Bars of the parts at the peak, one a step of the stack."""
    for y, entry in enumerate(found):
        at_peak, start = entry.stacked.found.at_peak, 0.0
        if at_peak is None:
            word = "refused" if entry.stacked.cell.reason else entry.stacked.found.status
            axes.text(0, y, f" {word}", va="center", fontsize=7, color=QUIET)
            continue
        for part in PEAK_PARTS:
            width = unit.of(at_peak[part])
            colour = PART_COLOURS[part]
            axes.barh(y, width, left=start, height=0.66, color=colour, ec="white", lw=0.4)
            start += width
        axes.text(start, y, f" {decimals(start, _places(start))}", va="center", fontsize=7.5)
    axes.set_xlabel(f"memory at the peak ({unit.name})")
    axes.margins(x=0.1)
    axes.set_xlim(left=0)
    shown = [part for part in PEAK_PARTS if part != "other"]
    axes.legend(
        handles=[Patch(color=PART_COLOURS[part], label=PARTS[part]) for part in shown],
        loc="lower right",
        handlelength=0.9,
        handleheight=0.9,
        handletextpad=0.5,
        labelspacing=0.35,
    )


def _places(value: float) -> int:
    return 1 if value < 100 else 0


def _savings(axes: Axes, found: Sequence[Entry], unit: Unit) -> None:
    """Three points a change, on a scale that is linear around 0 and logarithmic beyond."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)
    axes.axvline(0, color=QUIET, linewidth=0.6, zorder=0)
    quiet_grid(axes, "x")
    for y, entry in enumerate(found):
        if entry.is_base:
            continue
        for offset, (way, (_, marker, colour)) in zip((-0.2, 0.0, 0.2), WAYS.items(), strict=True):
            side: Side = getattr(entry, way)
            if side.change_bytes is None:
                continue
            x = unit.of(side.change_bytes)
            axes.hlines(y + offset, 0, x, color=colour, linewidth=1.0, alpha=0.55)
            axes.plot(
                x, y + offset, marker=marker, color=colour, markersize=4, mec="white", mew=0.4
            )
    axes.set_xlabel(f"memory ({unit.name})")
    axes.legend(
        handles=[
            Line2D([], [], marker=marker, color=colour, markersize=4, linewidth=1.0, label=word)
            for word, marker, colour in WAYS.values()
        ],
        loc="lower right",
    )
