"""Tables 1 and 2 as predicted, beside the paper's printed values: no run is needed for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lomo.model import june_2023
from lomo.study.plan import read_plan

from ..paper.predictions import TERMS, Predicted, beside, read_predictions
from ..paper.printed import (
    difference,
    printed_number,
    printed_peak,
    printed_term,
    signed,
    why_memory,
    why_throughput,
)
from ..text.grid import Block, Cell, Notes, Table
from ..text.names import PARTS, SUMMED_PARTS, method_title
from ..text.render import write_table
from ..text.units import EN_DASH, Unit, decimals, unit_for
from .ablation import SECTION, predicted_ablation

ASKED = (
    *("model", "method", "activation_checkpointing", "attention", "sequence_length"),
    *("batch_size", "dtype", "engine", "num_devices"),
)
FOUND = ("true_peak_bytes", "difference", "account", "wall_s", "note")
NOT_PREDICTED = "not predicted"
JUNE = (
    f" Code of June 2023: transformers {june_2023.VERSION}, {{dtype}} weights, {{attention}} "
    "attention, called as the authors' trainer calls it."
)


def predicted_memory(predictions: Sequence[Predicted]) -> Table:
    """Table 1: the sum of terms beside the printed one, the true peak, and the terms."""
    rows = [row for row in predictions if row.section == "memory"]
    unit = unit_for(size for row in rows for size in (row.peak_bytes, row.term("total")))
    notes = Notes()
    columns = [
        *("model", "method", "checkpointing", "code", "attention", "printed", "predicted"),
        *("difference (%)", "true peak", "note"),
    ]
    grid = [
        [
            *_keys(row),
            row.spec.attention,
            _printed_text(printed_term(row, "total")),
            NOT_PREDICTED if row.reason else unit.text(row.term("total")),
            signed(difference(row.term("total"), printed_term(row, "total"))),
            unit.text(row.peak_bytes),
            notes.mark(why_memory(row)),
        ]
        for row in rows
    ]
    totals = Block(columns, grid, 5, f"Sum of terms ({unit.name})", frozenset({"note"}))
    return Table(
        name="predicted_table1",
        title="Table 1, predicted: memory of a training step",
        caption=_caption(rows, "memory"),
        blocks=[totals, _terms(rows, unit)] if rows else [],
        notes=[*notes.texts(), *_time(rows)],
        data=_memory_data(rows),
    )


def predicted_throughput(predictions: Sequence[Predicted]) -> Table:
    """The memory of Table 2: the true peak of a device beside the printed one."""
    rows = [row for row in predictions if row.section == "throughput"]
    unit = unit_for(row.peak_bytes for row in rows)
    notes = Notes()
    columns = [
        *("model", "method", "checkpointing", "code", "devices", "engine", "printed"),
        "sum of terms",
        *("true peak", "difference (%)", "note"),
    ]
    grid = [
        [
            *_keys(row),
            str(row.spec.num_devices),
            _engine(row),
            Cell(printed_peak(row) or EN_DASH),
            NOT_PREDICTED if row.reason else unit.text(row.term("total")),
            unit.text(row.peak_bytes),
            signed(difference(row.peak_bytes, printed_number(row))),
            notes.mark(why_throughput(row)),
        ]
        for row in rows
    ]
    prose = frozenset({"engine", "note"})
    block = Block(columns, grid, 4, f"Memory of a device ({unit.name})", prose)
    return Table(
        name="predicted_table2",
        title="Table 2, predicted: memory of a device",
        caption=_caption(rows, "throughput"),
        blocks=[block] if rows else [],
        notes=[*notes.texts(), *_time(rows)],
        data=_throughput_data(rows),
    )


TABLES: tuple[Callable[[Sequence[Predicted]], Table], ...] = (
    predicted_memory,
    predicted_throughput,
)


def make_predicted(results: Path, of_june_2023: Path | None = None) -> list[Path]:
    """Writes the tables into the study's `tables` folder; the paths.

    of_june_2023: predictions with the modelling code of then, to stand beside the study's own.
    """
    own = read_predictions(results / "predictions")
    then = [] if of_june_2023 is None else read_predictions(of_june_2023)
    tables = [make(beside(own, then)) for make in TABLES]
    if any(row.section == SECTION for row in own):
        tables.append(predicted_ablation(read_plan(results), own))
    made = [write_table(table, results / "tables") for table in tables]
    return [path for paths in made for path in paths]


def _caption(rows: Sequence[Predicted], section: str) -> str:
    if not rows:
        return f"Nothing to predict: the study has no {section} section."
    spec = rows[0].spec
    against = "sum of terms" if section == "memory" else "true peak"
    then = next((row for row in rows if row.is_june_2023), None)
    return (
        f"The step was simulated, not run: batches of {spec.batch_size} x {spec.sequence_length} "
        f"tokens a device, {spec.dtype} weights. Printed: the paper's value, in GiB, where the "
        f"setting is the paper's. The difference is of the {against}, over the printed value."
    ) + ("" if then is None else JUNE.format(dtype=then.spec.dtype, attention=then.spec.attention))


def _time(rows: Sequence[Predicted]) -> list[str]:
    today = [row for row in rows if not row.is_june_2023]
    if not today:
        return []
    took = decimals(sum(row.wall_s for row in today), 0)
    return [f"{len(today)} predictions of today took {took} s in all, imports left out."]


def _keys(row: Predicted) -> list[Cell | str]:
    checkpointing = "on" if row.spec.activation_checkpointing else "off"
    return [row.spec.model, method_title(row.spec.method), checkpointing, row.modelling]


def _engine(row: Predicted) -> str:
    names = {"single": "one process", "fsdp2": "FSDP2", "zero3": "ZeRO-3"}
    settings = {"authors": ", authors' settings", "defaults": ", defaults"}
    return names[row.spec.engine] + settings.get(row.buffers or "", "")


def _printed_text(printed_gib: float | None) -> str:
    return decimals(printed_gib, 2)


def _terms(rows: Sequence[Predicted], unit: Unit) -> Block:
    grid = [
        [
            *_keys(row),
            row.spec.attention,
            *(
                Cell(unit.text(row.term(part)), printed=_optional(printed_term(row, part)))
                for part in SUMMED_PARTS
            ),
        ]
        for row in rows
    ]
    heads = [PARTS[part] for part in SUMMED_PARTS]
    heading = f"The terms ({unit.name}); in brackets the printed ones"
    keys = ["model", "method", "checkpointing", "code", "attention"]
    return Block([*keys, *heads], grid, len(keys), heading)


def _optional(printed_gib: float | None) -> str | None:
    return None if printed_gib is None else _printed_text(printed_gib)


def _asked(row: Predicted) -> dict[str, Any]:
    asked = {key: getattr(row.spec, key) for key in ASKED}
    return asked | {"modelling": row.modelling, "buffers": row.buffers}


def _memory_data(rows: Sequence[Predicted]) -> pd.DataFrame:
    """One row a prediction and term of the paper's account."""
    data = [
        {
            **_asked(row),
            "part": part,
            "printed_gib": printed_term(row, part),
            "predicted_bytes": row.term(part),
            "difference": difference(row.term(part), printed_term(row, part)),
            "true_peak_bytes": row.peak_bytes,
            "account": row.account,
            "wall_s": row.wall_s,
            "note": "; ".join(why_memory(row)) if part == "total" else "",
        }
        for row in rows
        for part in TERMS
    ]
    columns = ["part", "printed_gib", "predicted_bytes", *FOUND]
    return _frame(data, columns, "predicted_bytes")


def _throughput_data(rows: Sequence[Predicted]) -> pd.DataFrame:
    """One row a prediction."""
    data = [
        {
            **_asked(row),
            "printed_peak": printed_peak(row),
            "sum_of_terms_bytes": row.term("total"),
            "true_peak_bytes": row.peak_bytes,
            "difference": difference(row.peak_bytes, printed_number(row)),
            "account": row.account,
            "wall_s": row.wall_s,
            "note": "; ".join(why_throughput(row)),
        }
        for row in rows
    ]
    return _frame(data, ["printed_peak", "sum_of_terms_bytes", *FOUND], "sum_of_terms_bytes")


def _frame(data: list[dict[str, Any]], columns: Sequence[str], size: str) -> pd.DataFrame:
    frame = pd.DataFrame(data, columns=[*ASKED, "modelling", "buffers", *columns])
    return frame.astype({size: "Int64", "true_peak_bytes": "Int64"})
