"""Table 2: tokens per second and device, and the peak of each device."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.collected import Collected
from analysis.comparable import (
    measured_notes,
    reason_notes,
    why_not_devices,
    why_not_measured,
    why_not_speed,
)
from analysis.names import method_title, status_text
from analysis.printed import value, value_text
from analysis.render import Block, Cell, Table
from analysis.units import decimals, number, unit_for

SECTION = "throughput"
SPEED = "tokens_per_s_per_device"
COLUMNS = (
    "model",
    "method",
    "activation_checkpointing",
    "sequence_length",
    "batch_size",
    "dtype",
    "device_name",
    "world_size",
    "status",
    "peak_bytes",
    SPEED,
    f"{SPEED}_p10",
    f"{SPEED}_p90",
    "step_s_median",
    "num_timed_steps",
)


def printed_row(row: Any) -> str:
    """The paper's row that a run stands for."""
    return f"{row.paper_model}/{row.method}"


def why_not(collected: Collected, row: Any, *, speed: bool) -> str | None:
    """Why a row's memory, or its speed, is not comparable with Table 2; None if it is."""
    num_devices = value("table2_throughput", printed_row(row), "num_devices")
    reason = why_not_measured(collected, SECTION, row) or why_not_devices(row, num_devices)
    return reason or (why_not_speed(row) if speed else None)


def ratio(rows: list[Any], row: Any, method: str) -> float | None:
    """A row's speed over that of `method` on the same model and setting; None if unknown."""
    mine = number(getattr(row, SPEED))
    for other in rows:
        same = (other.model, other.activation_checkpointing) == (
            row.model,
            row.activation_checkpointing,
        )
        if same and other.method == method:
            theirs = number(getattr(other, SPEED))
            return None if mine is None or theirs is None else mine / theirs
    return None


def table_throughput(collected: Collected) -> Table:
    """Table 2 of the study."""
    rows = collected.rows(SECTION)
    return Table(
        name="table2_throughput",
        title="Table 2: throughput",
        caption=_caption(rows),
        blocks=[_block(collected, rows)] if rows else [],
        notes=_notes(collected, rows),
        data=_data(collected, rows),
    )


def _caption(rows: list[Any]) -> str:
    if not rows:
        return "Not run: the study has no throughput section."
    first = rows[0]
    return (
        f"Tokens per second and device over all timed steps, the 10th and 90th percentile of "
        f"single steps, and peak memory of a device; batches of {first.batch_size} x "
        f"{first.sequence_length} tokens a device, {first.dtype} weights, {first.attention} "
        "attention. Warm-up, evaluation and saving are not in it. "
        "In brackets: the paper's printed value, where it is comparable."
    )


def _block(collected: Collected, rows: list[Any]) -> Block:
    unit = unit_for(row.peak_bytes for row in rows)
    grid: list[list[Cell | str]] = []
    for row in rows:
        checkpointing = "on" if row.activation_checkpointing else "off"
        keys: list[Cell | str] = [row.model, method_title(row.method), checkpointing]
        if row.status != "ok":
            printed = (
                _printed(row, "peak") if why_not(collected, row, speed=False) is None else None
            )
            grid.append([*keys, "", Cell(status_text(row.status), printed=printed), *[""] * 5])
            continue
        peak = _printed(row, "peak") if why_not(collected, row, speed=False) is None else None
        speed = _printed(row, SPEED) if why_not(collected, row, speed=True) is None else None
        low, high = (getattr(row, f"{SPEED}_{name}") for name in ("p10", "p90"))
        grid.append(
            [
                *keys,
                decimals(row.world_size, 0),
                Cell(unit.text(row.peak_bytes), printed=peak),
                Cell(_rate(getattr(row, SPEED)), printed=speed),
                f"{_rate(low)} to {_rate(high)}",
                decimals(1000 * row.step_s_median, 1),
                decimals(ratio(rows, row, "adamw"), 2),
                decimals(ratio(rows, row, "lomo"), 2),
            ]
        )
    heads = [f"peak ({unit.name})", "tokens/s", "p10 to p90", "step (ms)"]
    ratios = ["over AdamW", "over LOMO"]
    return Block(
        columns=["model", "method", "checkpointing", "devices", *heads, *ratios],
        rows=grid,
        num_keys=3,
    )


def _rate(tokens_per_s: Any) -> str:
    known = number(tokens_per_s)
    return decimals(known, 0 if known is not None and known >= 100 else 2)


def _printed(row: Any, column: str) -> str | None:
    return value_text("table2_throughput", printed_row(row), column)


def _notes(collected: Collected, rows: list[Any]) -> list[str]:
    if not rows:
        return []
    notes = ["The last two columns are speeds divided by AdamW's and by LOMO's on the same model."]
    names = sorted({row.device_name for row in rows if isinstance(row.device_name, str)})
    notes += [f"Measured on: {', '.join(names)}."] if names else []
    notes += reason_notes(
        (why_not(collected, row, speed=True), row.method)
        for row in rows
        if row.paper_model is None or _printed(row, "peak") is not None
    )
    return notes + measured_notes(rows)


def _data(collected: Collected, rows: list[Any]) -> pd.DataFrame:
    data = []
    for row in rows:
        memory = why_not(collected, row, speed=False) is None
        speed = why_not(collected, row, speed=True) is None
        data.append(
            {
                **{name: getattr(row, name) for name in COLUMNS},
                "speed_over_adamw": ratio(rows, row, "adamw"),
                "speed_over_lomo": ratio(rows, row, "lomo"),
                "printed_peak": _printed(row, "peak") if memory else None,
                f"printed_{SPEED}": _printed(row, SPEED) if speed else None,
                "run_id": row.run_id,
            }
        )
    extra = ["speed_over_adamw", "speed_over_lomo", "printed_peak", f"printed_{SPEED}", "run_id"]
    return pd.DataFrame(data, columns=[*COLUMNS, *extra])
