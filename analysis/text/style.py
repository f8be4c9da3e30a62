"""How every figure looks: one colour a method, one colour a part of memory, one size of type.

Colours are from the sets of Okabe and Ito (methods) and Paul Tol (parts), which people with any
common form of colour blindness can tell apart.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lomo.system.files import write_bytes

from .names import method_order, method_title

INK, QUIET, FAINT = "#1f2328", "#59636e", "#d8dee4"

_METHOD_COLOURS = {
    "zero_shot": "#7f7f7f",
    "lora": "#0072B2",
    "lora_lomo": "#56B4E9",
    "adamw": "#332288",
    "sgd": "#009E73",
    "lomo": "#D55E00",
    "adalomo": "#CC79A7",
}
_METHOD_MARKERS = {
    "zero_shot": "_",
    "lora": "s",
    "lora_lomo": "D",
    "adamw": "^",
    "sgd": "v",
    "lomo": "o",
    "adalomo": "P",
}
PART_COLOURS = {
    "parameters": "#5b6b82",
    "gradients": "#CC6677",
    "optimizer_state": "#DDCC77",
    "activations": "#88CCEE",
    "other": "#b9c0c8",
    "residual": "#e3e6ea",
}

# Widths of a column and of a page of the ACL layout, in inches.
COLUMN, PAGE = 3.35, 6.9

# Any: matplotlib types the keys as one long Literal.
RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "lomo",
    "axes.formatter.useoffset": False,
    # A dollar sign in somebody's title is no formula.
    "text.parse_math": False,
}

# Dates and versions would make two builds of one picture differ.
_NO_METADATA: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
    "png": {"Software": None},
}
FORMATS = tuple(_NO_METADATA)
_PRINT: dict[str, Callable[[Figure], Callable[..., object]]] = {
    "svg": lambda figure: FigureCanvasSVG(figure).print_svg,
    "pdf": lambda figure: FigureCanvasPdf(figure).print_pdf,
    "png": lambda figure: FigureCanvasAgg(figure).print_png,
}


# For methods of other packages, which are named beside their marks.
_OTHER_COLOURS = (INK, "#882255", "#999933", "#117733", "#661100")


def method_colour(method: str) -> str:
    """The one colour of a method; of one that is not ours, one that its name picks."""
    other = _OTHER_COLOURS[zlib.crc32(method.encode()) % len(_OTHER_COLOURS)]
    return _METHOD_COLOURS.get(method, other)


def text_colour(colour: str) -> str:
    """A darker shade of `colour`, for type on white."""
    red, green, blue = (
        0.72 * part + 0.28 * dark for part, dark in zip(to_rgb(colour), to_rgb(INK), strict=True)
    )
    return to_hex((red, green, blue))


def method_marker(method: str) -> str:
    """The one marker of a method."""
    return _METHOD_MARKERS.get(method, "X")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches, laid out so that nothing is cut off."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def quiet_grid(axes: Axes, axis: Any) -> None:
    """Faint lines behind the data along one axis."""
    axes.grid(axis=axis, color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)


def method_legend(figure: Figure, methods: Iterable[str], *more: Line2D) -> None:
    """Above the panels: each method's colour and mark, in the methods' order; then `more`."""
    look: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.2}
    marks = [
        Line2D(
            *([], []),
            color=method_colour(method),
            marker=method_marker(method),
            label=method_title(method),
            **look,
        )
        for method in sorted(set(methods), key=method_order)
    ]
    marks += more
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), handlelength=1.8)


def placeholder(reason: str, title: str) -> Figure:
    """A small picture that says why there is none."""
    figure = new_figure(COLUMN, 1.1)
    figure.text(0.5, 0.62, title, ha="center", va="center", fontsize=8.5, color=QUIET)
    figure.text(0.5, 0.36, f"not run: {reason}", ha="center", va="center", color=QUIET, wrap=True)
    return figure


def style() -> Any:
    """The context in which figures are drawn and saved."""
    return matplotlib.rc_context(RC)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes the figure as svg, pdf and png, the same bytes for the same figure; the paths."""
    # Laid out once, and each format drawn once: savefig does both again for each, for the same
    # result.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    paths = []
    for suffix, metadata in _NO_METADATA.items():
        buffer = io.BytesIO()
        figure.set_dpi(matplotlib.rcParams["savefig.dpi"])  # which svg and pdf leave changed
        _PRINT[suffix](figure)(buffer, metadata=metadata)
        paths.append(folder / f"{name}.{suffix}")
        write_bytes(paths[-1], buffer.getvalue())
    return paths
