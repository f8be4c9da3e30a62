"""Figure 1: gradient bytes alive over one backward pass, SGD against LOMO."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lomo.system.files import read_lines

from ..records.collected import Collected
from ..text.names import METHODS, method_title
from ..text.style import COLUMN, method_colour, new_figure, placeholder, quiet_grid, text_colour
from ..text.units import Unit, unit_for

TITLE = "Figure 1: gradients over one backward pass"
PAPER_METHODS = ("sgd", "lomo")
# (share of the parameter tensors whose gradient was made, bytes of gradients alive)
Curve = list[tuple[float, int]]


def gradient_curve(events: list[dict[str, Any]]) -> Curve:
    """The backward pass of a timeline as a curve; a release stands half a tensor behind a birth."""
    backward = [
        event for event in events if event.get("phase") == "backward" and "gradients_bytes" in event
    ]
    num_born = 0
    curve: Curve = [(0.0, 0)]
    for event in backward:
        name = str(event.get("event", ""))
        if "gradient" not in name:
            continue
        born = "born" in name or "created" in name
        num_born += born
        x = num_born - 1 if born else num_born - 0.5
        curve.append((max(0.0, x), int(event["gradients_bytes"])))
    if num_born == 0:
        return []
    return [*((x / num_born, y) for x, y in curve), (1.0, curve[-1][1])]


def figure_gradients(collected: Collected) -> Figure:
    """Figure 1 of the study, for its largest model.

    SGD and LOMO as in the paper, and methods of other packages; where the study has none of them,
    all that it measures.
    """
    reason = collected.why_empty("memory")
    if reason:
        return placeholder(reason, TITLE)
    model = collected.largest_model("memory")
    measured = dict.fromkeys(row.method for row in collected.rows("memory"))
    asked = [m for m in measured if m in PAPER_METHODS or m not in METHODS]
    found = {method: _curve_of(collected, model, method) for method in asked or measured}
    curves = {method: curve for method, curve in found.items() if curve}
    if not curves:
        return placeholder(f"no timeline on {model}", TITLE)
    return _draw(model, curves)


def _curve_of(collected: Collected, model: str, method: str) -> Curve:
    rows = [
        row
        for row in collected.rows("memory")
        if (row.model, row.method, row.status) == (model, method, "ok") and row.timeline_file
    ]
    if not rows:
        return []
    # With checkpointing where there is a choice: the paper's setting.
    row = max(rows, key=lambda row: bool(row.activation_checkpointing))
    return gradient_curve(read_lines(collected.run_folder(row.run_id) / row.timeline_file))


def _draw(model: str, curves: dict[str, Curve]) -> Figure:
    figure = new_figure(COLUMN, 2.3)
    axes = figure.subplots()
    highest = max(y for curve in curves.values() for _, y in curve)
    unit = unit_for([highest])
    for method, curve in curves.items():
        x = [100 * share for share, _ in curve]
        y = [unit.of(num_bytes) for _, num_bytes in curve]
        colour = method_colour(method)
        axes.fill_between(x, y, step="post", color=colour, alpha=0.12, linewidth=0)
        width = 1.6 if method == "sgd" else 1.0
        axes.step(x, y, where="post", color=colour, linewidth=width)
    axes.set_xlim(0, 100)
    axes.set_ylim(0, unit.of(highest) * 1.12)
    axes.set_xlabel("progress of the backward pass (% of tensors)")
    axes.set_ylabel(f"gradients alive ({unit.name})")
    axes.set_title(model)
    quiet_grid(axes, "y")
    _name(axes, curves, unit, highest)
    return figure


def _name(axes: Axes, curves: dict[str, Curve], unit: Unit, highest: int) -> None:
    """Names the curves: those that keep all gradients at the left, the others above their peak."""
    kept_y, lowest = 0.93, 0.0
    for method, curve in sorted(curves.items(), key=lambda item: max(y for _, y in item[1])):
        top = unit.of(max(y for _, y in curve))
        # One that drops each gradient ends with none.
        keeps = curve[-1][1] > 0.5 * max(y for _, y in curve)
        if keeps:
            text = f"{method_title(method)}: all gradients, O(n)\n{top:,.2f} {unit.name} at the end"
            where, align, kept_y = (0.03, kept_y), "top", kept_y - 0.15
        else:
            held = "one gradient at a time, O(1)"
            text = f"{method_title(method)}: {held}\nat most {top:,.2f} {unit.name}"
            share = max(lowest, min(0.62, top / (unit.of(highest) * 1.12) + 0.05))
            where, align, lowest = (0.985, share), "bottom", share + 0.15
        axes.text(
            *where,
            text,
            transform=axes.transAxes,
            color=text_colour(method_colour(method)),
            ha="left" if keeps else "right",
            va=align,
            fontsize=7.5,
        )
