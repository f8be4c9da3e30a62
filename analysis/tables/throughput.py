"""Table 2: tokens per second and device, and the peak of each device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lomo.speed.flops import FORMULA
from lomo.study.cards import PEAK_TABLE

from ..paper.printed import value, value_text
from ..records.collected import Collected
from ..records.comparable import (
    measured_notes,
    reason_notes,
    size_of,
    why_not_devices,
    why_not_measured,
    why_not_speed,
)
from ..records.peers import timed_steps
from ..statistics.intervals import Interval
from ..statistics.speed import welch_ratio
from ..text.grid import Block, Cell, Table, of_run
from ..text.names import listed, method_title, status_text
from ..text.units import Unit, decimals, number, unit_for

SECTION = "throughput"
SPEED = "tokens_per_s_per_device"
ENDS = tuple(
    f"speed_over_{method}_{end}" for method in ("adamw", "lomo") for end in ("low", "high")
)
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
    "mfu",
    "hfu",
    "model_flops_per_token",
    "hardware_flops_per_step",
    "peak_flops_per_s",
    "energy_j_per_step",
    "energy_j_per_token",
    "cuda_reserved_peak_bytes",
    "cuda_timed_allocated_peak_bytes",
    "cuda_driver_used_bytes",
    "cuda_num_alloc_retries",
    "allocator_settings",
)


@dataclass(frozen=True)
class Extra:
    """A column that only a GPU's records fill: shown where one of the rows has a value.

    per_unit: what is shown for a value of 1; None for bytes, shown in the table's unit.
    """

    name: str
    head: str
    per_unit: float | None
    num_decimals: int = 1

    def title(self, unit: Unit) -> str:
        return self.head if self.per_unit is not None else f"{self.head} ({unit.name})"

    def text(self, value: float | None, unit: Unit) -> str:
        if value is None or self.per_unit is None:
            return unit.text(value)
        return decimals(value * self.per_unit, self.num_decimals)


EXTRA = (
    Extra("mfu", "MFU (%)", 100),
    Extra("hfu", "HFU (%)", 100),
    Extra("energy_j_per_token", "energy (mJ/token)", 1000),
    Extra("cuda_reserved_peak_bytes", "reserved", None),
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
    other = _other(rows, row, method)
    mine, theirs = (number(getattr(each, SPEED)) if each else None for each in (row, other))
    return None if mine is None or theirs is None else mine / theirs


def ratio_interval(collected: Collected, rows: list[Any], row: Any, method: str) -> Interval | None:
    """The 95 % interval of that ratio, over the steps of the two processes; None of a method over
    itself, or where one of the two did not end well."""
    other = _other(rows, row, method)
    if other is None or other is row or {row.status, other.status} != {"ok"}:
        return None
    found = welch_ratio(timed_steps(collected, other), timed_steps(collected, row))
    return found.interval if found else None


def _other(rows: list[Any], row: Any, method: str) -> Any | None:
    of = (each for each in rows if each.method == method and _setting(each) == _setting(row))
    return next(of, None)


def _setting(row: Any) -> tuple[Any, ...]:
    return row.model, row.activation_checkpointing, *size_of(row)


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
        f"single steps, and peak memory of a device; {_batches(rows)} x "
        f"{first.sequence_length} tokens a device, {first.dtype} weights, {first.attention} "
        "attention. Warm-up, evaluation and saving are not in it. "
        "In brackets: the paper's printed value, where it is comparable."
    )


def _batches(rows: list[Any]) -> str:
    return "batches of " + listed(map(str, sorted({int(row.batch_size) for row in rows})))


def _block(collected: Collected, rows: list[Any]) -> Block:
    extra = [column for column in EXTRA if any(_known(row, column) for row in rows)]
    unit = unit_for(row.peak_bytes for row in rows)
    grid: list[list[Cell | str]] = []
    for row in rows:
        checkpointing = "on" if row.activation_checkpointing else "off"
        batch = decimals(row.batch_size, 0)
        keys: list[Cell | str] = [row.model, method_title(row.method), checkpointing, batch]
        if row.status != "ok":
            printed = (
                _printed(row, "peak") if why_not(collected, row, speed=False) is None else None
            )
            empty = [""] * (5 + len(extra))
            status = Cell(status_text(row.status), printed=printed)
            grid.append([*keys, *of_run([decimals(row.num_devices, 0), status, *empty], row)])
            continue
        peak = _printed(row, "peak") if why_not(collected, row, speed=False) is None else None
        speed = _printed(row, SPEED) if why_not(collected, row, speed=True) is None else None
        low, high = (getattr(row, f"{SPEED}_{name}") for name in ("p10", "p90"))
        numbers = of_run(
            [
                decimals(row.world_size, 0),
                Cell(unit.text(row.peak_bytes), printed=peak),
                Cell(_rate(getattr(row, SPEED)), printed=speed),
                f"{_rate(low)} to {_rate(high)}",
                decimals(1000 * row.step_s_median, 1),
                _over(collected, rows, row, "adamw"),
                _over(collected, rows, row, "lomo"),
                *(column.text(number(getattr(row, column.name)), unit) for column in extra),
            ],
            row,
        )
        grid.append([*keys, *numbers])
    heads = [f"peak ({unit.name})", "tokens/s", "p10 to p90", "step (ms)"]
    ratios = ["over AdamW", "over LOMO"]
    return Block(
        columns=[
            *("model", "method", "checkpointing", "batch", "devices", *heads, *ratios),
            *(column.title(unit) for column in extra),
        ],
        rows=grid,
        num_keys=4,
    )


def _over(collected: Collected, rows: list[Any], row: Any, method: str) -> Cell:
    ends = ratio_interval(collected, rows, row, method)
    remark = f"{decimals(ends[0], 2)} to {decimals(ends[1], 2)}" if ends else None
    return Cell(decimals(ratio(rows, row, method), 2), remark=remark)


def _known(row: Any, column: Extra) -> bool:
    return number(getattr(row, column.name)) is not None


def _rate(tokens_per_s: Any) -> str:
    known = number(tokens_per_s)
    return decimals(known, 0 if known is not None and known >= 100 else 2)


def _printed(row: Any, column: str) -> str | None:
    return value_text("table2_throughput", printed_row(row), column)


def _notes(collected: Collected, rows: list[Any]) -> list[str]:
    if not rows:
        return []
    notes = [
        "Over AdamW, over LOMO: speeds divided by theirs on the same model in the same setting; in "
        "round brackets the 95 % interval over the steps of the two processes, which another "
        "process of either may lie outside of. Verdicts has the tests."
    ]
    if any(_known(row, EXTRA[0]) for row in rows):
        notes.append(f"MFU: {FORMULA}; peaks: {PEAK_TABLE}. HFU counts what is recomputed too.")
    names = sorted({row.device_name for row in rows if isinstance(row.device_name, str)})
    notes += [f"Measured on: {', '.join(names)}."] if names else []
    notes += reason_notes(
        (why_not(collected, row, speed=True), row.method)
        for row in rows
        if row.paper_model is None or _printed(row, "peak") is not None
    )
    return notes + measured_notes(rows)


def _ends(collected: Collected, rows: list[Any], row: Any) -> dict[str, float]:
    found = [ratio_interval(collected, rows, row, method) for method in ("adamw", "lomo")]
    values = [value for ends in found for value in ends or (math.nan, math.nan)]
    return dict(zip(ENDS, values, strict=True))


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
                **_ends(collected, rows, row),
                "printed_peak": _printed(row, "peak") if memory else None,
                f"printed_{SPEED}": _printed(row, SPEED) if speed else None,
                "run_id": row.run_id,
            }
        )
    extra = ["speed_over_adamw", "speed_over_lomo", *ENDS]
    extra += ["printed_peak", f"printed_{SPEED}", "run_id"]
    return pd.DataFrame(data, columns=[*COLUMNS, *extra])
