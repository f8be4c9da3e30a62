"""The paper's claims as orders: which is larger. Even a miniature can put these to the test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..records import accuracy
from ..records.accuracy import Cell, accuracy_cells
from ..records.collected import Collected
from ..records.comparable import size_of, size_text
from ..text.names import NOT_RUN as STATUS_NOT_RUN
from ..text.names import PAPER_TASKS, listed, method_title, status_text, task_title
from ..text.units import decimals, percent, unit_for
from .verdict import DIFFERS, NOT_COMPARABLE, NOT_RUN, REPRODUCED, UNDECIDED, Verdict

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
        yield _untested(_CLAIMS[section], NOT_RUN, f"the study has no {section} section")
    for model in collected.models(section):
        rows = [row for row in collected.rows(section) if row.model == model]
        settings = list(dict.fromkeys(map(size_of, rows)))
        for size in settings:
            title = model if len(settings) == 1 else f"{model} at {size_text(size)}"
            yield from orders(title, [row for row in rows if size_of(row) == size])


def _of_accuracy(collected: Collected, section: str, orders: Any) -> Iterator[Verdict]:
    if section not in collected.plan.sections:
        yield _untested(_CLAIMS[section], NOT_RUN, f"the study has no {section} section")
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


def _order(
    what: str,
    model: str,
    holds: bool,
    measured: str,
    caution: str,
    runs: Sequence[Any],
    doubts: Sequence[str] = (),
) -> Verdict:
    """The verdict on an order that was measured; what leaves it open stands in `doubts`."""
    verdict = UNDECIDED if doubts else REPRODUCED if holds else DIFFERS
    reason = "; ".join([f"as an order, on {model}", *filter(None, [caution]), *doubts])
    return Verdict("Order", what, "", measured, None, verdict, reason, True, _run_ids(runs))


def _untested(what: str, verdict: str, reason: str, runs: Sequence[Any] = ()) -> Verdict:
    return Verdict("Order", what, "", None, None, verdict, reason, True, _run_ids(runs))


def _run_ids(runs: Sequence[Any]) -> str:
    of_each = (run.run_ids if isinstance(run, Cell) else (run.run_id,) for run in runs)
    return " ".join(dict.fromkeys(run_id for run_ids in of_each for run_id in run_ids))


def _lacking(what: str, model: str, runs: dict[str, Any]) -> Verdict:
    """The verdict where not all `runs` are ok; they stand under their titles, None if unplanned."""
    failed = [r for r in runs.values() if r is not None and r.status not in ("ok", STATUS_NOT_RUN)]
    reasons = [_why_lacking(title, run) for title, run in runs.items() if not _ok(run)]
    verdict = NOT_COMPARABLE if failed else NOT_RUN
    return _untested(what, verdict, f"on {model}: {', '.join(reasons)}", failed)


def _why_lacking(title: str, run: Any | None) -> str:
    if run is None:
        return f"the study does not ask for {title}"
    if run.status == STATUS_NOT_RUN:
        return f"{title} has no record yet"
    return f"{title} ended as {status_text(run.status)}"


def _ok(run: Any | None) -> bool:
    return run is not None and run.status == "ok"


def _chain(
    what: str, model: str, rows: dict[str, Any], methods: Sequence[str], column: str
) -> Verdict:
    """Whether `column` rises strictly along `methods`."""
    if not all(_ok(rows.get(m)) for m in methods):
        return _lacking(what, model, {method_title(m): rows.get(m) for m in methods})
    runs = [rows[m] for m in methods]
    known = [float(getattr(run, column)) for run in runs]
    holds = all(low < high for low, high in zip(known, known[1:], strict=False))
    if column.endswith("_bytes"):
        unit = unit_for(known)
        texts = [f"{unit.text(value)} {unit.name}" for value in known]
    else:
        texts = [decimals(value, 0) + " tokens/s" for value in known]
    parts = [f"{method_title(m)} {text}" for m, text in zip(methods, texts, strict=True)]
    doubts = _spread(runs) if column == "tokens_per_s_per_device" else []
    return _order(what, model, holds, ", ".join(parts), "", runs, doubts)


def _spread(runs: Sequence[Any]) -> list[str]:
    """What leaves two speeds open: the 10th to 90th percentiles of their steps meet."""
    low, high = sorted(runs, key=lambda row: row.tokens_per_s_per_device)[:: len(runs) - 1]
    meet = high.tokens_per_s_per_device_p10 <= low.tokens_per_s_per_device_p90
    return ["within the spread of single steps"] if meet else []


def _memory_orders(model: str, rows: list[Any]) -> Iterator[Verdict]:
    for checkpointed in sorted({bool(row.activation_checkpointing) for row in rows}):
        of = {r.method: r for r in rows if bool(r.activation_checkpointing) == checkpointed}
        setting = "with checkpointing" if checkpointed else "without checkpointing"
        chain = ("lomo", "sgd", "adamw")
        title = f"Memory {setting}, LOMO < SGD < AdamW"
        yield _chain(f"{title}: sum of terms", model, of, chain, "sum_total_bytes")
        yield _chain(f"{title}: true peak", model, of, chain, "peak_bytes")
        if "lomo" in {row.method for row in rows}:
            yield from _lomo_alone(model, of.get("lomo"), setting)
    yield from _checkpointing(model, rows)


def _lomo_alone(model: str, row: Any | None, setting: str) -> Iterator[Verdict]:
    one = f"LOMO {setting}: gradients never exceed the largest parameter tensor"
    none = f"LOMO {setting}: no optimizer state"
    if row is None or not _ok(row):
        for what in (one, none):
            yield _lacking(what, model, {f"LOMO {setting}": row})
        return
    alive, largest = int(row.gradients_peak_bytes), int(row.largest_parameter_bytes)
    holds = alive <= largest + GRANULE_BYTES
    # A tied weight gets one share of its gradient from each of its uses, and torch adds them up.
    reason = "its embeddings are tied (docs/footguns.md)" if row.tied_embeddings else ""
    yield _order(one, model, holds, f"{alive:,} B of {largest:,} B", reason, [row])
    state = int(row.sum_optimizer_state_bytes)
    yield _order(none, model, state == 0, f"{state:,} B", "", [row])


def _checkpointing(model: str, rows: list[Any]) -> Iterator[Verdict]:
    for method in dict.fromkeys(row.method for row in rows):
        of = {bool(r.activation_checkpointing): r for r in rows if r.method == method}
        if len(of) < 2:
            continue
        title = method_title(method)
        what = f"{title}: checkpointing makes activations smaller"
        if not all(map(_ok, of.values())):
            runs = {
                f"{title} without checkpointing": of[False],
                f"{title} with checkpointing": of[True],
            }
            yield _lacking(what, model, runs)
            continue
        off, on = (int(of[flag].sum_activations_bytes) for flag in (False, True))
        unit = unit_for([off, on])
        text = f"{unit.text(off)} to {unit.text(on)} {unit.name}"
        yield _order(what, model, on < off, text, "", [of[False], of[True]])


def _speed_orders(model: str, rows: list[Any]) -> Iterator[Verdict]:
    of = {row.method: row for row in rows}
    for other in ("adamw", "sgd"):
        what = f"Tokens/s per device, LOMO above {method_title(other)}"
        yield _chain(what, model, of, (other, "lomo"), "tokens_per_s_per_device")


def _superglue_orders(collected: Collected, model: str, cells: list[Cell]) -> Iterator[Verdict]:
    tasks = accuracy.tasks_of(collected, "superglue")
    over = [task for task in tasks if task in PAPER_TASKS]
    claims = (
        ("Mean accuracy, LOMO at least LoRA", ("LOMO", "LoRA"), ("lomo", "lora"), 0.0),
        (
            f"Mean accuracy, LOMO at least {100 * FAR_ABOVE:.0f} points above zero-shot",
            ("LOMO", "zero-shot"),
            ("lomo", "zero_shot"),
            FAR_ABOVE,
        ),
    )
    for what, names, methods, margin in claims:
        if not over:
            yield _untested(what, NOT_COMPARABLE, f"on {model}: none of the paper's tasks is there")
            continue
        base = accuracy.average_over(cells, over, method="zero_shot")
        first, second = (accuracy.average_over(cells, over, method=method) for method in methods)
        short = "" if set(PAPER_TASKS) <= set(over) else listed(map(task_title, over))
        remark = f" (over {short}, the paper over six tasks)" if short else ""
        yield _at_least(what, model, first, second, names, margin, base, remark)


def _rank_orders(collected: Collected, model: str, cells: list[Cell]) -> Iterator[Verdict]:
    bases = accuracy_cells(collected, "superglue")
    for task in accuracy.tasks_of(collected, "lora_rank"):
        # Measured with the same settings or not, it is the same model on the same task.
        base = accuracy.find([*cells, *bases], model=model, task=task, method="zero_shot")
        ranks = sorted({c.rank for c in cells if c.task == task and c.rank is not None})
        for rank in ranks:
            both = accuracy.find(cells, method="lora_lomo", task=task, rank=rank)
            lora = accuracy.find(cells, method="lora", task=task, rank=rank)
            what = f"{task_title(task)}, rank {rank}: LoRA with LOMO at least LoRA"
            yield _at_least(what, model, both, lora, ("LoRA with LOMO", "LoRA"), 0.0, base)


def _at_least(
    what: str,
    model: str,
    first: Cell | None,
    second: Cell | None,
    names: tuple[str, str],
    margin: float,
    base: Cell | None,
    remark: str = "",
) -> Verdict:
    """Whether `first` is at least a margin above `second`; `base` is zero-shot, which a baseline
    has to be above."""
    gap = accuracy.gap(first, second, margin) if first is not None and second is not None else None
    if gap is None or first is None or second is None:
        return _lacking(what, model, dict(zip(names, (first, second), strict=True)))
    text = ", ".join(
        f"{name} {percent(cell.accuracy)} %"
        for name, cell in zip(names, (first, second), strict=True)
    )
    reasons = [f"within {source}" for source in gap.open]
    holds = gap.value >= -1e-9
    if (
        holds
        and not reasons
        and base is not None
        and accuracy.gains_nothing([base, second], second)
    ):
        reasons.append(f"{names[1]} is not above zero-shot there, and so no baseline")
    return _order(what, model, holds, text + remark, "", [first, second], reasons)
