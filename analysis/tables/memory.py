"""Table 1: where the bytes of a training step are, in the paper's accounting and at the peak."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..paper.printed import value
from ..records.collected import Collected
from ..records.comparable import measured_notes, reason_notes, why_not_measured
from ..text.grid import Block, Cell, Table, of_run
from ..text.names import PARTS, SUMMED_PARTS, method_title, status_text
from ..text.units import Unit, decimals, number, unit_for

SECTION = "memory"
COLUMNS = ("model", "method", "activation_checkpointing", "sequence_length", "batch_size", "dtype")


def setting(row: Any) -> str:
    """The setting's name in the paper's rows."""
    return "checkpointed" if row.activation_checkpointing else "plain"


def printed_row(row: Any) -> str:
    """The paper's row that a run stands for."""
    return f"{row.paper_model}/{row.method}/{setting(row)}"


def table_memory(collected: Collected) -> Table:
    """Table 1 of the study."""
    rows = collected.rows(SECTION)
    unit = unit_for([row.peak_bytes for row in rows] + [row.sum_total_bytes for row in rows])
    return Table(
        name="table1_memory",
        title="Table 1: memory of a training step",
        caption=_caption(rows, unit),
        blocks=[_summed(collected, rows, unit), _peak(rows, unit)] if rows else [],
        notes=_notes(collected, rows),
        data=_data(collected, rows),
    )


def _caption(rows: list[Any], unit: Unit) -> str:
    if not rows:
        return "Not run: the study has no memory section."
    first = rows[0]
    return (
        f"Bytes of one optimizer step in {unit.name}, batches of {first.batch_size} x "
        f"{first.sequence_length} tokens, {first.dtype} weights, {first.attention} attention. "
        "Above: the paper's accounting, a sum of terms that need not be alive at the same time. "
        "Below: the true peak, that is, all bytes alive at one moment, and what they are. "
        "In brackets: the paper's printed value, where the setting is the paper's."
    )


def _keys(row: Any) -> list[Cell | str]:
    checkpointing = "on" if row.activation_checkpointing else "off"
    return [row.model, method_title(row.method), checkpointing]


def _summed(collected: Collected, rows: list[Any], unit: Unit) -> Block:
    columns = [*SUMMED_PARTS, "total"]
    grid: list[list[Cell | str]] = []
    for row in rows:
        comparable = why_not_measured(collected, SECTION, row) is None
        cells: list[Cell | str] = [
            Cell(
                unit.text(getattr(row, f"sum_{part}_bytes")),
                printed=_printed(row, part) if comparable else None,
            )
            for part in columns
        ]
        cells = cells if row.status == "ok" else _failed(row, len(columns))
        grid.append(_keys(row) + of_run(cells, row))
    heads = [PARTS.get(part, part) for part in columns]
    return Block(
        columns=["model", "method", "checkpointing", *heads],
        rows=grid,
        num_keys=3,
        heading=f"The paper's accounting: sum of terms ({unit.name})",
    )


def _peak(rows: list[Any], unit: Unit) -> Block:
    grid: list[list[Cell | str]] = []
    for row in rows:
        parts = [unit.text(getattr(row, f"at_peak_{part}_bytes")) for part in PARTS]
        cells: list[Cell | str] = [unit.text(row.peak_bytes), *parts, row.peak_phase]
        cells = cells if row.status == "ok" else _failed(row, len(cells))
        grid.append(_keys(row) + of_run(cells, row))
    heads = ["peak", *PARTS.values(), "phase"]
    return Block(
        columns=["model", "method", "checkpointing", *heads],
        rows=grid,
        num_keys=3,
        heading=f"The true peak and what is in it ({unit.name})",
        prose=frozenset({"phase"}),
    )


def _failed(row: Any, num: int) -> list[Cell | str]:
    return [status_text(row.status), *[""] * (num - 1)]


def _printed(row: Any, part: str) -> str | None:
    known = value("table1_memory", printed_row(row), part)
    return None if known is None else decimals(known, 2)


def _is_printed(row: Any) -> bool:
    """Whether the paper prints this row, or would if the model were one of its."""
    return row.paper_model is None or _printed(row, "total") is not None


def _notes(collected: Collected, rows: list[Any]) -> list[str]:
    if not rows:
        return []
    notes = [
        "Residual: what the counter saw at the peak and no part explains.",
        "SGD and AdamW with 16-bit weights keep a 32-bit copy of the weights, as the paper's "
        "baselines do; it counts as optimizer state.",
    ]
    reasons = [
        (why_not_measured(collected, SECTION, row), row.method) for row in rows if _is_printed(row)
    ]
    notes += reason_notes(reasons)
    if any(reason is None for reason, _ in reasons):
        notes.append(
            "The paper's totals without checkpointing exceed the sum of their own columns by "
            "1.00 GiB each."
        )
    return notes + measured_notes(rows)


def _data(collected: Collected, rows: list[Any]) -> pd.DataFrame:
    """One row a run, accounting and part, in bytes."""
    data = []
    for row in rows:
        comparable = why_not_measured(collected, SECTION, row) is None
        terms = [("sum_of_terms", part, f"sum_{part}_bytes") for part in (*SUMMED_PARTS, "total")]
        terms += [("peak", part, f"at_peak_{part}_bytes") for part in PARTS]
        terms.append(("peak", "total", "peak_bytes"))
        for accounting, part, column in terms:
            known = number(getattr(row, column))
            summed = accounting == "sum_of_terms"
            data.append(
                {
                    **{name: getattr(row, name) for name in COLUMNS},
                    "status": row.status,
                    "accounting": accounting,
                    "part": part,
                    "value_bytes": None if known is None else int(known),
                    "printed_gib": value("table1_memory", printed_row(row), part)
                    if comparable and summed
                    else None,
                    "run_id": row.run_id,
                }
            )
    columns = [*COLUMNS, "status", "accounting", "part", "value_bytes", "printed_gib", "run_id"]
    return pd.DataFrame(data, columns=columns).astype({"value_bytes": "Int64"})
