"""The paper's claims as orders: which is larger. Even a miniature can put these to the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from analysis import accuracy
from analysis.accuracy import AVERAGE, Cell, accuracy_cells
from analysis.collected import Collected
from analysis.names import TASKS, listed, method_title
from analysis.units import decimals, number, unit_for
from analysis.verdict import DIFFERS, NOT_RUN, REPRODUCED, Verdict

# What the paper says of fine-tuning at 13B: "above 20 points".
FAR_ABOVE = 0.20
# An allocator rounds sizes up to this.
GRANULE_BYTES = 512


def order_verdicts(collected: Collected) -> list[Verdict]:
    """Every order that the paper claims, on each model of the study."""
    return [
        *_of_section(collected, "memory", _memory_orders),
        *_of_section(collected, "throughput", _speed_orders),
        *_of_accuracy(collected, "superglue", _superglue_orders),
        *_of_accuracy(collected, "lora_rank", _rank_orders),
    ]


def _of_section(collected: Collected, section: str, orders: Any) -> Iterator[Verdict]:
    if section not in collected.plan.sections:
        yield _order(section, "", None, None, f"the study has no {section} section")
    for model in collected.models(section):
        yield from orders(model, [row for row in collected.rows(section) if row.model == model])


def _of_accuracy(collected: Collected, section: str, orders: Any) -> Iterator[Verdict]:
    if section not in collected.plan.sections:
        yield _order(section, "", None, None, f"the study has no {section} section")
    cells = accuracy_cells(collected, section)
    for model in collected.models(section):
        yield from orders(model, [cell for cell in cells if cell.model == model])


# What stands for the claims of a section that a study lacks.
_CLAIMS = {
    "memory": "Order of memory: LOMO below SGD below AdamW",
    "throughput": "Order of speed: LOMO above AdamW and SGD",
    "superglue": "Order of accuracy: LOMO at least LoRA, both far above zero-shot",
    "lora_rank": "LoRA with LOMO at least LoRA at each rank",
}


def _order(
    what: str,
    model: str,
    holds: bool | None,
    measured: str | None,
    reason: str,
    runs: Sequence[Any] = (),
) -> Verdict:
    verdict = NOT_RUN if holds is None else REPRODUCED if holds else DIFFERS
    if holds is not None:
        reason = f"as an order, on {model}" + (f"; {reason}" if reason else "")
    run_id = " ".join(dict.fromkeys(run_id for run in runs for run_id in _run_ids(run)))
    what = _CLAIMS.get(what, what)
    return Verdict("Order", what, "", measured, None, verdict, reason, True, run_id)


def _run_ids(run: Any) -> tuple[str, ...]:
    return run.run_ids if isinstance(run, Cell) else (run.run_id,)


def _lacking(model: str, titles: Sequence[str]) -> str:
    return f"{model} has no value for {listed(titles)}"


def _chain(
    what: str, model: str, rows: dict[str, Any], methods: Sequence[str], column: str
) -> Verdict:
    """Whether `column` rises strictly along `methods`."""
    values = {m: number(getattr(rows[m], column)) if m in rows else None for m in methods}
    lacking = [method_title(m) for m, value in values.items() if value is None]
    if lacking:
        return _order(what, model, None, None, _lacking(model, lacking))
    known = [value for value in values.values() if value is not None]
    holds = all(low < high for low, high in zip(known, known[1:], strict=False))
    runs = [rows[m] for m in methods]
    if column.endswith("_bytes"):
        unit = unit_for(known)
        texts = [f"{unit.text(value)} {unit.name}" for value in known]
    else:
        texts = [decimals(value, 0) + " tokens/s" for value in known]
    parts = [f"{method_title(m)} {text}" for m, text in zip(methods, texts, strict=True)]
    caution = _spread(runs) if column == "tokens_per_s_per_device" else ""
    return _order(what, model, holds, ", ".join(parts), caution, runs)


def _spread(runs: Sequence[Any]) -> str:
    """A caution where the 10th to 90th percentiles of two runs' steps meet."""
    low, high = sorted(runs, key=lambda row: row.tokens_per_s_per_device)[:: len(runs) - 1]
    meet = high.tokens_per_s_per_device_p10 <= low.tokens_per_s_per_device_p90
    return "within the spread of single steps" if meet else ""


def _memory_orders(model: str, rows: list[Any]) -> Iterator[Verdict]:
    ended = [row for row in rows if row.status == "ok"]
    for checkpointed in sorted({bool(row.activation_checkpointing) for row in rows}):
        of = {r.method: r for r in ended if bool(r.activation_checkpointing) == checkpointed}
        setting = "with checkpointing" if checkpointed else "without checkpointing"
        chain = ("lomo", "sgd", "adamw")
        title = f"Memory {setting}, LOMO < SGD < AdamW"
        yield _chain(f"{title}: sum of terms", model, of, chain, "sum_total_bytes")
        yield _chain(f"{title}: true peak", model, of, chain, "peak_bytes")
        if "lomo" in {row.method for row in rows}:
            yield from _lomo_alone(model, of.get("lomo"), setting)
    yield from _checkpointing(model, rows, ended)


def _lomo_alone(model: str, row: Any | None, setting: str) -> Iterator[Verdict]:
    one = f"LOMO {setting}: gradients never exceed the largest parameter tensor"
    none = f"LOMO {setting}: no optimizer state"
    if row is None:
        for what in (one, none):
            yield _order(what, model, None, None, _lacking(model, ["LOMO"]))
        return
    alive, largest = int(row.gradients_peak_bytes), int(row.largest_parameter_bytes)
    holds = alive <= largest + GRANULE_BYTES
    # A tied weight gets one share of its gradient from each of its uses, and torch adds them up.
    reason = "its embeddings are tied (docs/footguns.md)" if row.tied_embeddings else ""
    yield _order(one, model, holds, f"{alive:,} B of {largest:,} B", reason, [row])
    state = int(row.sum_optimizer_state_bytes)
    yield _order(none, model, state == 0, f"{state:,} B", "", [row])


def _checkpointing(model: str, rows: list[Any], ended: list[Any]) -> Iterator[Verdict]:
    for method in dict.fromkeys(row.method for row in rows):
        if {bool(r.activation_checkpointing) for r in rows if r.method == method} != {True, False}:
            continue
        of = {bool(r.activation_checkpointing): r for r in ended if r.method == method}
        what = f"{method_title(method)}: checkpointing makes activations smaller"
        if len(of) < 2:
            yield _order(what, model, None, None, _lacking(model, ["both settings"]))
            continue
        off, on = (int(of[flag].sum_activations_bytes) for flag in (False, True))
        unit = unit_for([off, on])
        text = f"{unit.text(off)} to {unit.text(on)} {unit.name}"
        yield _order(what, model, on < off, text, "", [of[False], of[True]])


def _speed_orders(model: str, rows: list[Any]) -> Iterator[Verdict]:
    of = {row.method: row for row in rows if row.status == "ok"}
    for other in ("adamw", "sgd"):
        what = f"Tokens/s per device, LOMO above {method_title(other)}"
        yield _chain(what, model, of, (other, "lomo"), "tokens_per_s_per_device")


def _superglue_orders(model: str, cells: list[Cell]) -> Iterator[Verdict]:
    def average(method: str) -> Cell | None:
        return accuracy.find(cells, method=method, task=AVERAGE)

    lomo, lora, base = average("lomo"), average("lora"), average("zero_shot")
    yield _at_least("Mean accuracy, LOMO at least LoRA", model, lomo, lora, ("LOMO", "LoRA"), 0.0)
    names = ("LOMO", "zero-shot")
    what = f"Mean accuracy, LOMO at least {100 * FAR_ABOVE:.0f} points above zero-shot"
    yield _at_least(what, model, lomo, base, names, FAR_ABOVE)


def _rank_orders(model: str, cells: list[Cell]) -> Iterator[Verdict]:
    for task in TASKS:
        ranks = sorted({c.rank for c in cells if c.task == task and c.rank is not None})
        for rank in ranks:
            both = accuracy.find(cells, method="lora_lomo", task=task, rank=rank)
            lora = accuracy.find(cells, method="lora", task=task, rank=rank)
            what = f"{TASKS[task]}, rank {rank}: LoRA with LOMO at least LoRA"
            yield _at_least(what, model, both, lora, ("LoRA with LOMO", "LoRA"), 0.0)


def _at_least(
    what: str,
    model: str,
    first: Cell | None,
    second: Cell | None,
    names: tuple[str, str],
    margin: float,
) -> Verdict:
    a, b = (cell.accuracy if cell else None for cell in (first, second))
    if a is None or b is None:
        lacking = [name for name, value in zip(names, (a, b), strict=True) if value is None]
        return _order(what, model, None, None, _lacking(model, lacking))
    assert first is not None and second is not None
    points = 100 * (a - b)
    text = f"{names[0]} {decimals(100 * a, 1)} %, {names[1]} {decimals(100 * b, 1)} %"
    error = 100 * (first.stderr or 0.0), 100 * (second.stderr or 0.0)
    within = abs(points - 100 * margin) < 1.96 * (error[0] ** 2 + error[1] ** 2) ** 0.5
    reason = "within the error of the test sample" if within else ""
    # 1e-9: equal accuracies must not differ by a rounding of binary fractions.
    return _order(what, model, points >= 100 * margin - 1e-9, text, reason, [first, second])
