"""Figure 2: what share of a step's memory each part takes, by method."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ..paper.printed import value
from ..records.collected import Collected
from ..records.comparable import why_not_measured
from ..text.names import PARTS, SUMMED_PARTS, method_title
from ..text.style import COLUMN, INK, PART_COLOURS, QUIET, new_figure, placeholder
from ..text.units import unit_for

TITLE = "Figure 2: shares of memory"
# Narrower slices carry no number of their own.
MIN_LABELLED_PERCENT = 9.0


def figure_shares(collected: Collected) -> Figure:
    """Figure 2 of the study, for its largest model, with checkpointing where it was measured."""
    reason = collected.why_empty("memory")
    if reason:
        return placeholder(reason, TITLE)
    model = collected.largest_model("memory")
    rows = [r for r in collected.rows("memory") if (r.model, r.status) == (model, "ok")]
    if not rows:
        return placeholder(f"no run of {model} ended well", TITLE)
    checkpointed = any(row.activation_checkpointing for row in rows)
    rows = [row for row in rows if bool(row.activation_checkpointing) == checkpointed]
    rows.sort(key=lambda row: -row.sum_total_bytes)
    return _draw(collected, model, rows, checkpointed)


def _draw(collected: Collected, model: str, rows: list[Any], checkpointed: bool) -> Figure:
    bars = []  # (label, shares in percent, text at the end, is it ours)
    unit = unit_for(row.sum_total_bytes for row in rows)
    for row in rows:
        parts = [getattr(row, f"sum_{part}_bytes") for part in SUMMED_PARTS]
        shares = [100 * part / row.sum_total_bytes for part in parts]
        total = f"{unit.text(row.sum_total_bytes)} {unit.name}"
        bars.append((method_title(row.method), shares, total, True))
        theirs = [
            value("figure2_shares", f"{row.paper_model}/{row.method}/checkpointed", part)
            for part in SUMMED_PARTS
        ]
        known = [share for share in theirs if share is not None]
        if checkpointed and len(known) == 4 and not why_not_measured(collected, "memory", row):
            bars.append(("paper", known, "", False))
    figure = new_figure(COLUMN, 0.75 + 0.27 * len(bars))
    axes = figure.subplots()
    y = 0.0
    ticks, labels = [], []
    for label, shares, total, ours in bars:
        y += 1.0 if ours else 0.72
        _bar(axes, y, shares, ours)
        axes.text(101.5, y, total, va="center", fontsize=7.5, color=INK)
        ticks.append(y)
        labels.append(label)
    axes.set_yticks(ticks, labels)
    for tick, bar in zip(axes.get_yticklabels(), bars, strict=True):
        tick.set_color(INK if bar[3] else QUIET)
        tick.set_fontsize(8 if bar[3] else 7)
    axes.set_ylim(y + 0.6, 0.4)
    axes.set_xlim(0, 100)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    setting = "with" if checkpointed else "without"
    axes.set_xlabel(f"share of memory (%), {model}, {setting} checkpointing")
    handles = [Patch(color=PART_COLOURS[part], label=PARTS[part]) for part in SUMMED_PARTS]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4,
        handlelength=0.9,
        handleheight=0.9,
        columnspacing=1.0,
        handletextpad=0.4,
        fontsize=7,
    )
    return figure


def _bar(axes: Axes, y: float, shares: list[float], ours: bool) -> None:
    left = 0.0
    for part, share in zip(SUMMED_PARTS, shares, strict=True):
        axes.barh(
            y,
            share,
            left=left,
            height=0.68 if ours else 0.4,
            color=PART_COLOURS[part],
            alpha=1.0 if ours else 0.55,
            edgecolor="white",
            linewidth=0.6,
        )
        if share >= MIN_LABELLED_PERCENT:
            dark = part == "parameters" and ours
            axes.text(
                left + share / 2,
                y,
                f"{share:.0f}" if ours else f"{share:.1f}",
                ha="center",
                va="center",
                fontsize=7 if ours else 6,
                color="white" if dark else INK,
            )
        left += share
