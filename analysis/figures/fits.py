"""The figure of what fits: a panel for each model and size of card, a tile for each method."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from lomo.memory.asked.cells import Cell as Fit

from ..paper.fits import NAME, WhatFits, read_fits
from ..text.names import method_title
from ..text.style import FAINT, INK, PAGE, method_colour, new_figure, save, style, text_colour

# Inches of a method's row, and of what stands around the panels.
ROW, AROUND = 0.128, 0.75
TILE_WIDTH, TILE_HEIGHT = 0.88, 0.8


def make_fits_figure(results: Path) -> list[Path]:
    """Draws it into the folder's `figures`; the paths."""
    with style():
        return save(figure_fits(read_fits(results)), results / "figures", NAME)


def figure_fits(found: WhatFits) -> Figure:
    """The largest batch of each method that fits, by model, size of card and number of cards."""
    height = AROUND + len(found.models) * (ROW * len(found.methods) + 0.1)
    figure = new_figure(PAGE, height)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.025, wspace=0.015, hspace=0.0)
    panels = figure.subplots(len(found.models), len(found.gpus_gib), squeeze=False)
    for row, model in enumerate(found.models):
        for column, gpu_gib in enumerate(found.gpus_gib):
            axes = panels[row, column]
            _frame(axes, found)
            for y, method in enumerate(found.methods):
                for x, count in enumerate(found.counts):
                    _tile(axes, x, y, found.cells[model, method, count, gpu_gib])
            if row == 0:
                axes.set_title(f"{gpu_gib:g} GiB", loc="center", pad=4)
        _name_rows(panels[row, 0], model, found)
        for axes in panels[row, 1:]:
            axes.set_yticks([])
    for axes in panels[-1]:
        axes.set_xticks(range(len(found.counts)), [str(count) for count in found.counts])
    figure.supxlabel(
        f"number of cards. A tile holds the largest batch, in sequences of "
        f"{found.sequence_length:,} tokens a device; where a dot stands, not one fits",
        fontsize=7,
        color=INK,
    )
    return figure


def _frame(axes: Axes, found: WhatFits) -> None:
    axes.set_xlim(-0.5, len(found.counts) - 0.5)
    axes.set_ylim(len(found.methods) - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)


def _name_rows(axes: Axes, model: str, found: WhatFits) -> None:
    axes.set_yticks(range(len(found.methods)), [method_title(m) for m in found.methods])
    for label, method in zip(axes.get_yticklabels(), found.methods, strict=True):
        label.set(color=text_colour(method_colour(method)), fontsize=6.5)
    axes.set_ylabel(model, fontsize=7.5, fontweight="bold", labelpad=5)


def _tile(axes: Axes, x: int, y: int, fit: Fit) -> None:
    """A tile with the batch; where nothing fits a dot, and a cross for what is refused."""
    if not fit.batch_size:
        axes.plot(x, y, marker="x" if fit.refused else ".", color=FAINT, markersize=2.5)
        return
    colour = method_colour(fit.method)
    tile = FancyBboxPatch(
        (x - TILE_WIDTH / 2, y - TILE_HEIGHT / 2),
        TILE_WIDTH,
        TILE_HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.12",
        facecolor=(colour, 0.24),
        edgecolor="none",
    )
    axes.add_patch(tile)
    size = 5.6 if fit.batch_size < 1000 else 4.6
    axes.text(
        x,
        y + 0.03,
        str(fit.batch_size),
        ha="center",
        va="center_baseline",
        fontsize=size,
        color=INK,
    )
