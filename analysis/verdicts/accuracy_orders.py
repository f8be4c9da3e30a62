"""The paper's claims on which method is the more accurate, put to a paired test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..records import accuracy, compared
from ..records.accuracy import AVERAGE, Cell, accuracy_cells
from ..records.collected import Collected
from ..text.names import PAPER_TASKS, listed, task_title
from ..text.units import percent
from .decided import Draft, of_pairs
from .verdict import NOT_COMPARABLE, Verdict, lacking, order, untested

# What the paper says of fine-tuning at 13B: "above 20 points".
FAR_ABOVE = 0.20


def superglue_orders(
    collected: Collected, model: str, cells: list[Cell]
) -> Iterator[Draft | Verdict]:
    """What the paper says of mean accuracies, of one model's cells."""
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
            yield untested(what, NOT_COMPARABLE, f"on {model}: none of the paper's tasks is there")
            continue
        first, second = (accuracy.average_over(cells, over, method=method) for method in methods)
        short = "" if set(PAPER_TASKS) <= set(over) else listed(map(task_title, over))
        remark = f" (over {short}, the paper over six tasks)" if short else ""
        both = [compared.behind(cells, cell, over) if cell else [] for cell in (first, second)]
        doubts = []
        for name, method, of in zip(names, methods, both, strict=True):
            if method != "zero_shot":
                doubts += _no_baseline(collected, name, of, cells)
        yield _at_least(
            collected, what, model, (first, second), both, names, margin, doubts, remark
        )


def rank_orders(collected: Collected, model: str, cells: list[Cell]) -> Iterator[Draft | Verdict]:
    """What the paper says of LoRA with and without LOMO, at each rank of one model."""
    # Measured with the same settings or not, it is the same model on the same task.
    bases = [*cells, *accuracy_cells(collected, "superglue")]
    bases = [cell for cell in bases if cell.model == model]
    of_methods = {
        name: [c for c in cells if c.method == method and c.task != AVERAGE]
        for name, method in (("LoRA with LOMO", "lora_lomo"), ("LoRA", "lora"))
    }
    overall = {name: _no_baseline(collected, name, of, bases) for name, of in of_methods.items()}
    for task in accuracy.tasks_of(collected, "lora_rank"):
        ranks = sorted({c.rank for c in cells if c.task == task and c.rank is not None})
        for rank in ranks:
            both = {n: accuracy.find(of, task=task, rank=rank) for n, of in of_methods.items()}
            doubts: list[str] = []
            for name, cell in both.items():
                here = _no_baseline(collected, name, [cell], bases) if cell else []
                doubts += here or overall[name]
            what = f"{task_title(task)}, rank {rank}: LoRA with LOMO at least LoRA"
            first, second = both.values()
            yield _at_least(
                collected,
                what,
                model,
                (first, second),
                [[cell] if cell else [] for cell in (first, second)],
                ("LoRA with LOMO", "LoRA"),
                0.0,
                doubts,
            )


def _no_baseline(
    collected: Collected, name: str, of: Sequence[Cell], bases: Sequence[Cell]
) -> list[str]:
    """Why a method is no baseline: a third or more of its cells show no gain over zero-shot."""
    gains = []
    for cell in of:
        base = accuracy.find(bases, model=cell.model, task=cell.task, method="zero_shot")
        if base is not None:
            gains.append(compared.gains_nothing_over(collected, [cell], [base]))
    if not compared.no_baseline(gains):
        return []
    where = "there" if len(of) == 1 else f"in {sum(filter(None, gains))} of {len(gains)} cells"
    return [f"{name} is not above zero-shot {where}, and so no baseline"]


def _at_least(
    collected: Collected,
    what: str,
    model: str,
    cells: tuple[Cell | None, Cell | None],
    behind: Sequence[Sequence[Cell]],
    names: tuple[str, str],
    margin: float,
    doubts: Sequence[str],
    remark: str = "",
) -> Draft | Verdict:
    """Whether the first is at least a margin above the second; `behind`: the tasks' cells."""
    known = [cell for cell in cells if cell is not None and cell.accuracy is not None]
    if len(known) < 2:
        return lacking(what, model, dict(zip(names, cells, strict=True)))
    text = ", ".join(
        f"{name} {percent(cell.accuracy)} %" for name, cell in zip(names, known, strict=True)
    )
    pairs = compared.pairs_of(collected, *behind)
    num, planned = len(compared.common_seeds(*behind)), max(c.num_planned_seeds for c in known)
    caution = f"paired on the {num} of {planned} seeds that both have" if 0 < num < planned else ""
    return of_pairs(order(what, model, text + remark, known, caution), pairs, margin, doubts)
