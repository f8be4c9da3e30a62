"""The table of peers: memory and time of a step, each way beside the floor of the same round."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import pandas as pd

from ..records.collected import Collected
from ..records.comparable import measured_notes
from ..records.peers import SECTION, Entry, entries
from ..text.grid import Block, Cell, Table
from ..text.names import status_text
from ..text.units import EN_DASH, GIB, MIB, Unit, decimals

MINUS = "\N{MINUS SIGN}"


def table_peers(collected: Collected) -> Table:
    """The table of peers of the study."""
    found = entries(collected)
    peaks = [entry.peak_bytes for entry in found if entry.peak_bytes is not None]
    unit = GIB if max(peaks, default=0) > 10 * GIB.num_bytes else MIB
    settings = dict.fromkeys((entry.model, entry.activation_checkpointing) for entry in found)
    return Table(
        name="table_peers",
        title="Peers: memory and time of one step, beside the floor",
        caption=_caption(collected),
        blocks=[
            _block([e for e in found if (e.model, e.activation_checkpointing) == setting], unit)
            for setting in settings
        ],
        notes=_notes(collected, found),
        data=_data(found),
    )


def _caption(collected: Collected) -> str:
    section = collected.plan.study.peers
    if section is None:
        return "Not run: the study has no peers section."
    return (
        f"Batches of {section.batch_size} x {section.sequence_length} tokens, {section.dtype} "
        f"weights, {section.attention} attention. Floor: forward and backward, each gradient "
        "dropped as soon as it is there, no update. Time: fastest of "
        f"{section.num_timed_steps} steps of a process over that of the floor's process in the "
        f"same round; the median of {section.rounds} rounds, and least to most in brackets; 95 %: "
        "the interval of the mean ratio over the rounds."
    )


def _block(found: Sequence[Entry], unit: Unit) -> Block:
    model, checkpointing = found[0].model, found[0].activation_checkpointing
    return Block(
        columns=[
            *("step", "clipping", f"peak ({unit.name})", f"over floor ({unit.name})"),
            *("time over floor", "95 %", "memory target", "time target"),
        ],
        rows=[_row(entry, unit) for entry in found],
        num_keys=1,
        heading=f"{model}, checkpointing {'on' if checkpointing else 'off'}",
        prose=frozenset({"clipping", "memory target", "time target"}),
    )


def _row(entry: Entry, unit: Unit) -> list[Cell | str]:
    peak: Cell | str = status_text(entry.status)
    if entry.num_ok:
        part = f"{entry.num_ok} of {entry.num_rounds} rounds, else {status_text(entry.status)}"
        remark = part if entry.status != "ok" else None
        peak = Cell(unit.text(entry.peak_bytes), remark=remark, runs=entry.run_ids)
    return [
        entry.title,
        entry.clipping,
        peak,
        over_text(entry.over_floor_bytes, unit),
        _time(entry.time_ratios),
        _interval(entry),
        _target(entry, memory=True),
        _target(entry, memory=False),
    ]


def over_text(num_bytes: int | None, unit: Unit) -> str:
    """Bytes over the floor with their sign; in bytes where the unit would show a zero."""
    if num_bytes is None:
        return EN_DASH
    sign = "+" if num_bytes > 0 else MINUS if num_bytes < 0 else ""
    size = abs(num_bytes)
    return f"{sign}{f'{size} B' if 0 < unit.of(size) < 0.005 else unit.text(size)}"


def _time(ratios: Sequence[float]) -> Cell | str:
    if not ratios:
        return EN_DASH
    spread = f"{decimals(min(ratios), 2)} to {decimals(max(ratios), 2)}"
    return Cell(decimals(median(ratios), 2), remark=spread if len(ratios) > 1 else None)


def _interval(entry: Entry) -> str:
    ends = entry.time_interval
    return f"{decimals(ends[0], 2)} to {decimals(ends[1], 2)}" if ends else EN_DASH


def _target(entry: Entry, *, memory: bool) -> str:
    if entry.target is None:
        return ""
    if memory:
        limit = entry.target.over_floor_bytes
        text = {-1: "below the floor", 0: "at the floor"}.get(limit)
        text = text or f"at most {over_text(limit, MIB)} MiB"
        met = entry.memory_met
    else:
        text, met = f"at most {entry.target.time_ratio:g}", entry.time_met
    if met is None:
        return f"{text}: {status_text('not_run')}"
    split = not memory and not entry.rounds_agree
    return f"{text}: {'met' if met else 'not met'}{', rounds disagree' if split else ''}"


def _notes(collected: Collected, found: Sequence[Entry]) -> list[str]:
    if not found:
        return []
    note = collected.plan.study.note
    return [
        *([note] if note else []),
        "A time target is met where the median of the rounds is within it; where the 95 % interval "
        "holds it, too, more rounds could turn that round.",
        *measured_notes(collected.rows(SECTION)),
    ]


def _data(found: Sequence[Entry]) -> pd.DataFrame:
    """One row a variant and setting, in bytes and seconds; `time_ratios` one value a round."""
    columns = [
        *("model", "activation_checkpointing", "variant", "title", "method", "clipping"),
        *("status", "num_rounds", "num_ok", "peak_bytes", "over_floor_bytes", "memory_ratio"),
        *("step_s", "time_ratio", "time_ratio_min", "time_ratio_max", "time_ratios"),
        *("time_ratio_low", "time_ratio_high", "time_p"),
        *("target_over_floor_bytes", "target_time_ratio", "memory_met", "time_met"),
    ]
    data = []
    for entry in found:
        ratios, target = entry.time_ratios, entry.target
        extra = {
            "time_ratio_low": entry.time_interval[0] if entry.time_interval else None,
            "time_ratio_high": entry.time_interval[1] if entry.time_interval else None,
            "time_ratio_min": min(ratios, default=None),
            "time_ratio_max": max(ratios, default=None),
            "time_ratios": " ".join(f"{ratio:.4f}" for ratio in ratios),
            "target_over_floor_bytes": target.over_floor_bytes if target else None,
            "target_time_ratio": target.time_ratio if target else None,
        }
        data.append(
            {name: extra[name] if name in extra else getattr(entry, name) for name in columns}
        )
    whole = ("peak_bytes", "over_floor_bytes", "target_over_floor_bytes")
    flags = ("memory_met", "time_met")
    types = dict.fromkeys(whole, "Int64") | dict.fromkeys(flags, "boolean")
    return pd.DataFrame(data, columns=columns).astype(types)
