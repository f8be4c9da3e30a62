"""The paper's claims as orders: which is larger. Even a miniature can put these to the test.

Orders of memory are counts of bytes, and need no test; those of speed and of accuracy do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..records.accuracy import accuracy_cells
from ..records.collected import Collected
from ..records.comparable import size_of, size_text
from ..records.peers import timed_steps
from ..statistics.speed import welch_ratio
from ..text.names import method_title
from ..text.units import decimals, unit_for
from .accuracy_orders import rank_orders, superglue_orders
from .decided import Draft, of_times, settled
from .verdict import DIFFERS, NOT_RUN, REPRODUCED, Verdict, lacking, ok, order, untested

# An allocator rounds sizes up to this.
GRANULE_BYTES = 512


def order_verdicts(collected: Collected) -> list[Verdict]:
    """Every order that the paper claims, on each model of the study; of each table corrected for
    the number of its claims."""
    return [
        *settled(_of_section(collected, "memory", _memory_orders)),
        *settled(_of_section(collected, "throughput", _speed_orders)),
        *settled(_of_accuracy(collected, "superglue", superglue_orders)),
        *settled(_of_accuracy(collected, "lora_rank", rank_orders)),
    ]


def _of_section(collected: Collected, section: str, orders: Any) -> Iterator[Draft | Verdict]:
    if section not in collected.plan.sections:
        yield untested(_CLAIMS[section], NOT_RUN, f"the study has no {section} section")
    for model in collected.models(section):
        rows = [row for row in collected.rows(section) if row.model == model]
        settings = list(dict.fromkeys(map(size_of, rows)))
        for size in settings:
            title = model if len(settings) == 1 else f"{model} at {size_text(size)}"
            yield from orders(collected, title, [row for row in rows if size_of(row) == size])


def _of_accuracy(collected: Collected, section: str, orders: Any) -> Iterator[Draft | Verdict]:
    if section not in collected.plan.sections:
        yield untested(_CLAIMS[section], NOT_RUN, f"the study has no {section} section")
    cells = accuracy_cells(collected, section)
    for model in collected.models(section):
        yield from orders(collected, model, [cell for cell in cells if cell.model == model])


# What stands for the claims of a section that a study lacks.
_CLAIMS = {
    "memory": "Order of memory: LOMO below SGD below AdamW",
    "throughput": "Order of speed: LOMO above AdamW and SGD",
    "superglue": "Order of accuracy: LOMO at least LoRA, both far above zero-shot",
    "lora_rank": "LoRA with LOMO at least LoRA at each rank",
}


def _counted(
    what: str, model: str, holds: bool, measured: str, runs: Sequence[Any], caution: str = ""
) -> Verdict:
    """The verdict on an order of bytes."""
    made = order(what, model, measured, runs, caution)
    return replace(made, verdict=REPRODUCED if holds else DIFFERS)


def _rises(values: Iterable[float]) -> bool:
    known = list(values)
    return all(low < high for low, high in zip(known, known[1:], strict=False))


def _memory_orders(_: Collected, model: str, rows: list[Any]) -> Iterator[Verdict]:
    for checkpointed in sorted({bool(row.activation_checkpointing) for row in rows}):
        of = {r.method: r for r in rows if bool(r.activation_checkpointing) == checkpointed}
        setting = "with checkpointing" if checkpointed else "without checkpointing"
        title = f"Memory {setting}, LOMO < SGD < AdamW"
        yield _memory_chain(f"{title}: sum of terms", model, of, "sum_total_bytes")
        yield _memory_chain(f"{title}: true peak", model, of, "peak_bytes")
        if "lomo" in {row.method for row in rows}:
            yield from _lomo_alone(model, of.get("lomo"), setting)
    yield from _checkpointing(model, rows)


def _memory_chain(what: str, model: str, rows: dict[str, Any], column: str) -> Verdict:
    """Whether bytes rise strictly from LOMO over SGD to AdamW."""
    methods = ("lomo", "sgd", "adamw")
    if not all(ok(rows.get(m)) for m in methods):
        return lacking(what, model, {method_title(m): rows.get(m) for m in methods})
    runs = [rows[m] for m in methods]
    known = [float(getattr(run, column)) for run in runs]
    unit = unit_for(known)
    parts = [
        f"{method_title(m)} {unit.text(value)} {unit.name}"
        for m, value in zip(methods, known, strict=True)
    ]
    return _counted(what, model, _rises(known), ", ".join(parts), runs)


def _lomo_alone(model: str, row: Any | None, setting: str) -> Iterator[Verdict]:
    one = f"LOMO {setting}: gradients never exceed the largest parameter tensor"
    none = f"LOMO {setting}: no optimizer state"
    if row is None or not ok(row):
        for what in (one, none):
            yield lacking(what, model, {f"LOMO {setting}": row})
        return
    alive, largest = int(row.gradients_peak_bytes), int(row.largest_parameter_bytes)
    holds = alive <= largest + GRANULE_BYTES
    # A tied weight gets one share of its gradient from each of its uses, and torch adds them up.
    reason = "its embeddings are tied (docs/footguns.md)" if row.tied_embeddings else ""
    yield _counted(one, model, holds, f"{alive:,} B of {largest:,} B", [row], reason)
    state = int(row.sum_optimizer_state_bytes)
    yield _counted(none, model, state == 0, f"{state:,} B", [row])


def _checkpointing(model: str, rows: list[Any]) -> Iterator[Verdict]:
    for method in dict.fromkeys(row.method for row in rows):
        of = {bool(r.activation_checkpointing): r for r in rows if r.method == method}
        if len(of) < 2:
            continue
        title = method_title(method)
        what = f"{title}: checkpointing makes activations smaller"
        if not all(map(ok, of.values())):
            runs = {
                f"{title} without checkpointing": of[False],
                f"{title} with checkpointing": of[True],
            }
            yield lacking(what, model, runs)
            continue
        off, on = (int(of[flag].sum_activations_bytes) for flag in (False, True))
        unit = unit_for([off, on])
        text = f"{unit.text(off)} to {unit.text(on)} {unit.name}"
        yield _counted(what, model, on < off, text, [of[False], of[True]])


def _speed_orders(collected: Collected, model: str, rows: list[Any]) -> Iterator[Draft | Verdict]:
    of = {row.method: row for row in rows}
    for other in ("adamw", "sgd"):
        what = f"Tokens/s per device, LOMO above {method_title(other)}"
        both = {method_title(m): of.get(m) for m in (other, "lomo")}
        if not all(map(ok, both.values())):
            yield lacking(what, model, both)
            continue
        runs = [of[other], of["lomo"]]
        text = ", ".join(
            f"{title} {decimals(run.tokens_per_s_per_device, 0)} tokens/s"
            for title, run in zip(both, runs, strict=True)
        )
        theirs, ours = (timed_steps(collected, run) for run in runs)
        num = min(len(theirs), len(ours))
        yield of_times(
            order(what, model, text, runs), welch_ratio(theirs, ours), num, _spread(runs)
        )


def _spread(runs: Sequence[Any]) -> list[str]:
    """What leaves two speeds open: the 10th to 90th percentiles of their steps meet. One process
    a method tells nothing of what another would get, so a test over its steps is not enough."""
    low, high = sorted(runs, key=lambda row: row.tokens_per_s_per_device)[:: len(runs) - 1]
    meet = high.tokens_per_s_per_device_p10 <= low.tokens_per_s_per_device_p90
    return ["within the spread of single steps"] if meet else []
