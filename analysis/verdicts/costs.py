"""Verdicts on what training costs: Table 1, Table 2 and Figure 2.

Tolerances are ours, not the paper's: bytes that follow from the architecture must agree to the
printed digits, activations within 6 %, peaks within 3 %, speeds within 15 %, shares of memory
within a point.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..records.collected import Collected
from ..records.comparable import why_absent, why_not_measured
from ..tables import memory as table_memory
from ..tables import throughput as table_throughput
from ..text.names import NOT_RUN as STATUS_NOT_RUN
from ..text.names import PARTS, method_title
from ..text.units import GIB, decimals, number
from .verdict import (
    DIFFERS,
    NOT_COMPARABLE,
    NOT_RUN,
    Verdict,
    erratum,
    failed,
    judge,
    judged,
    verdict_on,
)

DIGITS_GIB = 0.01
ACTIVATIONS, CHECKPOINTED_TOTAL, PEAK, SPEED = 0.06, 0.01, 0.03, 0.15
SHARE_POINTS = 1.0


def _runs(collected: Collected, section: str, size: str, method: str) -> Iterator[Any]:
    for row in collected.rows(section):
        if (row.paper_model, row.method) == (size, method):
            yield row


def memory_verdict(collected: Collected, cell: Any) -> Verdict:
    """The verdict on one value of Table 1."""
    size, method, setting = cell.row.split("/")
    what = memory_what(cell)
    runs = _runs(collected, "memory", size, method)
    row = next((row for row in runs if table_memory.setting(row) == setting), None)
    if row is None:
        return verdict_on(cell, what, *why_absent(collected, "memory", size, method))
    reason = why_not_measured(collected, "memory", row)
    value = number(getattr(row, f"sum_{cell.column}_bytes"))
    if reason or value is None:
        return _without_value(cell, what, row, reason)
    tolerance = memory_tolerance(cell)
    notes = [erratum(cell)]
    if cell.column in ("activations", "total") and row.attention != "eager":
        notes.append(f"measured with {row.attention} attention, the paper's was eager")
    return judged(cell, what, row.run_id, GIB.of(value), tolerance, "GiB", 2, notes)


def memory_tolerance(cell: Any) -> float:
    """How far a value may be from one of Table 1, in GiB."""
    target = float(cell.value)
    if cell.column == "total":
        return target * (CHECKPOINTED_TOTAL if cell.row.endswith("/checkpointed") else ACTIVATIONS)
    return ACTIVATIONS * target if cell.column == "activations" else DIGITS_GIB


def memory_what(cell: Any) -> str:
    """What a value of Table 1 is, in words."""
    size, method, setting = cell.row.split("/")
    return f"{size} {method_title(method)}, {setting}: {PARTS.get(cell.column, cell.column)}"


def throughput_what(cell: Any) -> str:
    """What a value of Table 2 is, in words."""
    size, method = cell.row.split("/")
    labels = {"num_devices": "devices", "peak": "peak of a device"}
    label = labels.get(cell.column, "tokens/s per device")
    return f"{size} {method_title(method)}: {label}"


def share_what(cell: Any) -> str:
    """What a value of Figure 2 is, in words."""
    size, method, _ = cell.row.split("/")
    return f"{size} {method_title(method)}: share of {PARTS[cell.column]}"


def _without_value(cell: Any, what: str, row: Any, reason: str | None) -> Verdict:
    if row.status == STATUS_NOT_RUN:
        return verdict_on(cell, what, NOT_RUN, "planned, but there is no record yet")
    if reason:
        return verdict_on(cell, what, NOT_COMPARABLE, reason, run_id=row.run_id)
    return failed(cell, what, row.status, row.run_id)


def throughput_verdict(collected: Collected, cell: Any) -> Verdict:
    """The verdict on one value of Table 2."""
    size, method = cell.row.split("/")
    what = throughput_what(cell)
    rows = list(_runs(collected, "throughput", size, method))
    # A study may measure other batches and numbers of devices too.
    comparable = (r for r in rows if table_throughput.why_not(collected, r, speed=False) is None)
    row = next(comparable, rows[0] if rows else None)
    if row is None:
        return verdict_on(cell, what, *why_absent(collected, "throughput", size, method))
    reason = table_throughput.why_not(collected, row, speed=cell.column == table_throughput.SPEED)
    if cell.column == "num_devices":
        measured = number(row.world_size) or number(row.num_devices)
        if reason or measured is None:
            return _without_value(cell, what, row, reason)
        same = "the same number" if measured == float(cell.value) else "another number"
        verdict = judge(float(cell.value), measured, 0)
        return verdict_on(cell, what, verdict, same, decimals(measured, 0), "0", row.run_id)
    column = "peak_bytes" if cell.column == "peak" else cell.column
    value = number(getattr(row, column))
    if reason or value is None or row.status != "ok":
        return _without_value(cell, what, row, reason)
    if cell.value == "OOM":
        text = f"{decimals(GIB.of(value), 2)} GiB"
        return verdict_on(cell, what, DIFFERS, "it ran", text, run_id=row.run_id)
    if cell.column == "peak":
        tolerance = PEAK * float(cell.value)
        return judged(cell, what, row.run_id, GIB.of(value), tolerance, "GiB", 2, [])
    tolerance = SPEED * float(cell.value)
    return judged(cell, what, row.run_id, value, tolerance, "tokens/s", 2, [])


def share_verdict(collected: Collected, cell: Any) -> Verdict:
    """The verdict on one value of Figure 2."""
    size, method, _ = cell.row.split("/")
    what = share_what(cell)
    runs = _runs(collected, "memory", size, method)
    row = next((row for row in runs if row.activation_checkpointing), None)
    if row is None:
        return verdict_on(cell, what, *why_absent(collected, "memory", size, method))
    reason = why_not_measured(collected, "memory", row)
    part, total = number(getattr(row, f"sum_{cell.column}_bytes")), number(row.sum_total_bytes)
    if reason or part is None or not total:
        return _without_value(cell, what, row, reason)
    return judged(cell, what, row.run_id, 100 * part / total, SHARE_POINTS, "%", 1, [])
