"""The table of peers: memory and time of a step, each way beside the floor of the same round."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from analysis.collected import Collected
from analysis.comparable import measured_notes
from analysis.files import read_lines
from analysis.names import status_text, worst_status
from analysis.render import Block, Cell, Table
from analysis.units import EN_DASH, GIB, MIB, Unit, decimals
from lomo.config import Target
from lomo.errors import UserError

SECTION = "peers"
FLOOR = "floor"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Entry:
    """One variant in one setting, over all its rounds; None where nothing could be measured."""

    model: str
    activation_checkpointing: bool
    variant: str
    title: str
    method: str
    clipping: str
    status: str
    num_rounds: int
    num_ok: int
    peak_bytes: int | None
    over_floor_bytes: int | None
    memory_ratio: float | None
    step_s: float | None
    time_ratios: tuple[float, ...]
    target: Target | None

    @property
    def time_ratio(self) -> float | None:
        """The median over rounds of the step's time over the floor's."""
        return median(self.time_ratios) if self.time_ratios else None

    @property
    def memory_met(self) -> bool | None:
        """Whether the peak is within its target; None without a target or a measurement."""
        if self.target is None or self.over_floor_bytes is None:
            return None
        return self.over_floor_bytes <= self.target.over_floor_bytes

    @property
    def time_met(self) -> bool | None:
        """Whether the median time is within its target; None as above."""
        if self.target is None or self.time_ratio is None:
            return None
        return self.time_ratio <= self.target.time_ratio


def entries(collected: Collected) -> list[Entry]:
    """All variants by model and checkpointing, in the order of the study; [] without a section."""
    section = collected.plan.study.peers
    if section is None:
        return []
    cells: dict[tuple[str, bool], dict[str, dict[int, Any]]] = {}
    for row in collected.rows(SECTION):
        setting = cells.setdefault((row.model, bool(row.activation_checkpointing)), {})
        setting.setdefault(row.variant, {})[int(row.round)] = row
    floor = next(name for name, asked in section.variants.items() if asked.method == FLOOR)
    return [
        _entry(collected, name, of_setting[name], of_setting[floor])
        for of_setting in cells.values()
        for name in section.variants
    ]


def _entry(collected: Collected, name: str, rows: dict[int, Any], floors: dict[int, Any]) -> Entry:
    section = collected.plan.study.peers
    assert section is not None
    asked, first = section.variants[name], next(iter(rows.values()))
    ok = {number: row for number, row in rows.items() if row.status == "ok"}
    both = {number: row for number, row in ok.items() if floors[number].status == "ok"}
    seconds = {number: fastest_step_s(collected, row) for number, row in ok.items()}
    failed = [row.status for row in rows.values() if row.status != "ok"]
    over = [int(row.peak_bytes) - int(floors[number].peak_bytes) for number, row in both.items()]
    return Entry(
        model=first.model,
        activation_checkpointing=bool(first.activation_checkpointing),
        variant=name,
        title=asked.title or name,
        method=first.method,
        clipping=clipping(first),
        status=worst_status(failed) if failed else "ok",
        num_rounds=len(rows),
        num_ok=len(ok),
        # The meter gives the same bytes in each round; should it not, the largest counts.
        peak_bytes=max((int(row.peak_bytes) for row in ok.values()), default=None),
        over_floor_bytes=max(over, default=None),
        memory_ratio=max(
            (row.peak_bytes / floors[number].peak_bytes for number, row in both.items()),
            default=None,
        ),
        step_s=min(seconds.values(), default=None),
        time_ratios=tuple(
            seconds[number] / fastest_step_s(collected, floors[number]) for number in both
        ),
        target=asked.target,
    )


def fastest_step_s(collected: Collected, row: Any) -> float:
    """Seconds of the fastest timed step of a run: what disturbs a step only makes it longer."""
    path = collected.run_folder(row.run_id) / "history.jsonl"
    steps = [event["step_s"] for event in read_lines(path) if event.get("event") == "step"]
    timed = [float(step) for step in steps[int(row.num_warmup_steps) :]]
    if not timed:
        raise UserError(
            "holds no timed step, and its record says that there were some",
            where=str(path),
            fix="delete its folder and run the pipeline again: only that run is repeated",
        )
    return min(timed)


def clipping(row: Any) -> str:
    """What a run does about the gradient's norm, in words."""
    hyper = json.loads(row.hyper)
    if row.max_grad_norm is None:
        return "none needed: normalised update" if row.method == "adalomo" else "none"
    if row.method == "lomo_optim":
        return "global norm: backward, forward again, backward"
    scope = hyper.get("norm_scope")
    if scope == "parameter":
        return "each tensor by its own norm"
    if scope == "previous_step":
        return "global norm of the step before"
    if scope == "global":
        return f"global norm, exact: {_measuring(hyper)}"
    return "global norm"


def _measuring(hyper: dict[str, Any]) -> str:
    ghost = hyper.get("update") == "gemm"
    return "ghost norms, two backwards" if ghost else "two backwards"


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
        f"same round; the median of {section.rounds} rounds, and least to most in brackets."
    )


def _block(found: Sequence[Entry], unit: Unit) -> Block:
    model, checkpointing = found[0].model, found[0].activation_checkpointing
    return Block(
        columns=[
            *("step", "clipping", f"peak ({unit.name})", f"over floor ({unit.name})"),
            *("time over floor", "memory target", "time target"),
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
        peak = Cell(unit.text(entry.peak_bytes), remark=part if entry.status != "ok" else None)
    return [
        entry.title,
        entry.clipping,
        peak,
        over_text(entry.over_floor_bytes, unit),
        _time(entry.time_ratios),
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
    return f"{text}: {status_text('not_run') if met is None else 'met' if met else 'not met'}"


def _notes(collected: Collected, found: Sequence[Entry]) -> list[str]:
    if not found:
        return []
    note = collected.plan.study.note
    return [
        *([note] if note else []),
        "A time target is met where the median is within it; the spread says how sure that is.",
        *measured_notes(collected.rows(SECTION)),
    ]


def _data(found: Sequence[Entry]) -> pd.DataFrame:
    """One row a variant and setting, in bytes and seconds; `time_ratios` one value a round."""
    columns = [
        *("model", "activation_checkpointing", "variant", "title", "method", "clipping"),
        *("status", "num_rounds", "num_ok", "peak_bytes", "over_floor_bytes", "memory_ratio"),
        *("step_s", "time_ratio", "time_ratio_min", "time_ratio_max", "time_ratios"),
        *("target_over_floor_bytes", "target_time_ratio", "memory_met", "time_met"),
    ]
    data = []
    for entry in found:
        ratios, target = entry.time_ratios, entry.target
        extra = {
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
