"""The figure of an ablation: the peak as changes are stacked, and what each of them saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lomo.study.plan import read_plan

from ..paper.ablation import PEAK_PARTS, SECTION, Entry, Side, entries, measured, predicted, unit_of
from ..paper.predictions import read_predictions
from ..records.collected import Collected
from ..text.names import PARTS, status_text
from ..text.style import INK, PAGE, PART_COLOURS, QUIET, new_figure, placeholder, save, style
from ..text.units import Unit, decimals

TITLE = "Ablation: what saves how much"
# Way -> the title of its panel.
WAYS = {"stacked": "Stacked", "alone": "Alone", "without": "Left out"}
CHANGE = "#0072B2"


def figure_ablation(collected: Collected) -> Figure:
    """The measured ablation, for the study's first model."""
    reason = collected.why_empty(SECTION)
    if reason:
        return placeholder(reason, TITLE)
    return _figure(entries(collected.plan, measured(collected)))


def make_predicted_figure(results: Path) -> list[Path]:
    """Writes figures/predicted_ablation.* where the study has an ablation; the paths."""
    predictions = read_predictions(results / "predictions")
    if all(row.section != SECTION for row in predictions):
        return []
    found = entries(read_plan(results), predicted(predictions))
    with style():
        return save(_figure(found), results / "figures", "predicted_ablation")


def _figure(found: Sequence[Entry]) -> Figure:
    first = [entry for entry in found if entry.row.model == found[0].row.model]
    if all(entry.stacked.found.at_peak is None for entry in first):
        return placeholder("no run of the stack has a peak", TITLE)
    return _draw(first)


def _draw(found: Sequence[Entry]) -> Figure:
    unit = unit_of(found)
    figure = new_figure(PAGE, 0.85 + 0.25 * len(found))
    # Labels are wider when saved than when laid out.
    figure.set_layout_engine("constrained", rect=(0.02, 0, 0.98, 1))
    stack, *panels = figure.subplots(1, 1 + len(WAYS), width_ratios=[2.6, 1, 1, 1], sharey=True)
    _stack(stack, found, unit)
    largest = max(
        (unit.of(_side(entry, way).change_bytes or 0) for entry in found for way in WAYS), default=0
    )
    for axes, (way, title) in zip(panels, WAYS.items(), strict=True):
        _changes(axes, [_side(entry, way) for entry in found], unit, largest or 1.0)
        axes.set_title(title)
    for axes, word in zip(panels, ("saved", "saved", "lost"), strict=True):
        axes.set_xlabel(f"{word} ({unit.name})")
    names = [entry.row.title if entry.is_base else f"+ {entry.row.title}" for entry in found]
    stack.set_yticks(range(len(found)), names)
    stack.set_ylim(len(found) - 0.45, -0.55)
    for label in stack.get_yticklabels():
        label.set_color(INK)
    for axes in (stack, *panels):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    stack.set_title(f"Peak of a step, {found[0].row.model}")
    return figure


def _side(entry: Entry, way: str) -> Side:
    side: Side = getattr(entry, way)
    return side


def _stack(axes: Axes, found: Sequence[Entry], unit: Unit) -> None:
    """Bars of the parts at the peak, one a step of the stack."""
    for y, entry in enumerate(found):
        at_peak, start = entry.stacked.found.at_peak, 0.0
        if at_peak is None:
            word = (
                "refused" if entry.stacked.cell.reason else status_text(entry.stacked.found.status)
            )
            axes.text(0, y, f" {word}", va="center", fontsize=7, color=QUIET)
            continue
        for part in PEAK_PARTS:
            width = unit.of(at_peak[part])
            colour = PART_COLOURS[part]
            axes.barh(y, width, left=start, height=0.66, color=colour, ec="white", lw=0.4)
            start += width
        axes.text(start, y, f" {_number(start)}", va="center", fontsize=7.5)
    axes.set_xlabel(f"memory at the peak ({unit.name})")
    axes.margins(x=0.13)
    axes.set_xlim(left=0)
    bars = [entry.stacked.found.at_peak for entry in found if entry.stacked.found.at_peak]
    shown = [part for part in PEAK_PARTS if any(b[part] > 0.02 * sum(b.values()) for b in bars)]
    axes.legend(
        handles=[Patch(color=PART_COLOURS[part], label=PARTS[part]) for part in shown],
        loc="lower right",
        handlelength=0.9,
        handleheight=0.9,
        handletextpad=0.5,
        labelspacing=0.35,
    )


def _changes(axes: Axes, sides: Sequence[Side], unit: Unit, largest: float) -> None:
    """Bars of what is saved, or lost, with their numbers; all panels have one scale."""
    axes.axvline(0, color=QUIET, linewidth=0.6, zorder=0)
    for y, side in enumerate(sides):
        if side.change_bytes is None:
            word = "refused" if side.cell.reason else "" if side.cell.against is None else "?"
            axes.text(0, y, f" {word}", va="center", fontsize=7, color=QUIET)
            continue
        x = unit.of(side.change_bytes)
        axes.barh(y, x, height=0.66, color=CHANGE)
        axes.text(max(x, 0), y, f" {_number(x)}", va="center", fontsize=7.5)
    axes.set_xlim(-0.02 * largest, 1.5 * largest)
    axes.xaxis.set_major_locator(MaxNLocator(2))


def _number(value: float) -> str:
    return decimals(value, 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0)
