"""Verdicts on what training reaches and was given: Table 3, Table 4 and Figure 3.

The tolerance of an accuracy is the 95 % error of the difference of two test samples of its size;
hyper-parameters must be equal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lomo.specs import TrainSpec

from ..records import accuracy
from ..records.accuracy import AVERAGE, Cell, accuracy_cells, average_over, tasks_of
from ..records.collected import Collected
from ..records.comparable import why_absent, why_not_accuracy
from ..statistics.intervals import Z, sample_stderr
from ..tables.hyperparameters import shown, tried
from ..text.names import NOT_RUN as STATUS_NOT_RUN
from ..text.names import PAPER_TASKS, method_title, task_title
from .verdict import (
    DIFFERS,
    NOT_COMPARABLE,
    NOT_RUN,
    REPRODUCED,
    Verdict,
    erratum,
    failed,
    judged,
    verdict_on,
)


def superglue_verdict(collected: Collected, cell: Any) -> Verdict:
    """The verdict on one value of Table 3."""
    size, method = cell.row.split("/")
    what = f"{size} {method_title(method)}: {task_title(cell.column)}"
    return _accuracy(collected, cell, what, "superglue", size, method, None, cell.column)


def lora_rank_verdict(collected: Collected, cell: Any) -> Verdict:
    """The verdict on one value of Figure 3."""
    size, variant = cell.row.split("/")
    method, _, rank = variant.partition("-r")
    label = method_title(method, int(rank) if rank else None)
    what = f"{size} {label}: {task_title(cell.column)}"
    wanted = int(rank) if rank else None
    return _accuracy(collected, cell, what, "lora_rank", size, method, wanted, cell.column)


def _accuracy(
    collected: Collected,
    cell: Any,
    what: str,
    section: str,
    size: str,
    method: str,
    rank: int | None,
    task: str,
) -> Verdict:
    cells = accuracy_cells(collected, section)
    mine = [c for c in cells if collected.plan.models[c.model].paper == size]
    wanted = {"method": method, "task": task} | ({"rank": rank} if rank is not None else {})
    found = accuracy.find(mine, **wanted)
    if found is None:
        if accuracy.find(mine, **(wanted | {"task": AVERAGE})) is not None:
            return verdict_on(cell, what, NOT_RUN, f"the study does not ask for {task_title(task)}")
        return verdict_on(cell, what, *why_absent(collected, section, size, method))
    reason = why_not_accuracy(collected, found.model)
    if task == AVERAGE:
        if not set(PAPER_TASKS) <= set(tasks_of(collected, section)):
            reason = reason or "not all six tasks are in the study"
        found = average_over(mine, PAPER_TASKS, method=method) or found
    if found.accuracy is None or found.stderr is None or reason:
        return _without_accuracy(cell, what, found, reason)
    return _judged_accuracy(collected, cell, what, found)


def _without_accuracy(cell: Any, what: str, found: Cell, reason: str | None) -> Verdict:
    run_id = " ".join(found.run_ids)
    if found.status == STATUS_NOT_RUN:
        return verdict_on(cell, what, NOT_RUN, "planned, but there is no record yet")
    if reason:
        return verdict_on(cell, what, NOT_COMPARABLE, reason, run_id=run_id)
    return failed(cell, what, found.status, run_id)


def _judged_accuracy(collected: Collected, cell: Any, what: str, found: Cell) -> Verdict:
    assert found.accuracy is not None and found.stderr is not None
    target = float(cell.value) / 100
    # Of an average the paper's error is not known; ours is the best guess of it.
    theirs = sample_stderr(target, found.num_examples) if found.num_examples else found.stderr
    tolerance = 100 * Z * (found.stderr**2 + theirs**2) ** 0.5
    notes = [erratum(cell)]
    if collected.plan.study.selection == "dev" and found.method != "zero_shot":
        notes.append("chosen on dev, the paper chose on the reported set")
    run_id = " ".join(found.run_ids)
    seeds = (found.seeds[1] - found.seeds[0]) / 2 if found.seeds else 0.0
    error = 100 * max(Z * found.stderr, seeds)
    made = judged(cell, what, run_id, 100 * found.accuracy, tolerance, "%", 1, notes, error)
    # Zero-shot has no seed that could turn it round.
    return replace(made, num_seeds=len(found.by_seed) if found.method != "zero_shot" else None)


def hyperparameter_verdict(collected: Collected, cell: Any) -> Verdict:
    """The verdict on one value of Table 4."""
    method = cell.row
    section = "lora_rank" if method == "lora_lomo" else "superglue"
    what = f"{method_title(method)}: {cell.column.replace('_', ' ')}"
    rows = [row for row in collected.rows(section) if row.method == method]
    papers = [row for row in rows if row.paper_model]
    if not papers:
        return verdict_on(cell, what, *why_absent(collected, section, "a model", method))
    if all(row.status == STATUS_NOT_RUN for row in papers):
        return verdict_on(cell, what, NOT_RUN, "planned, but there is no record yet")
    model = papers[0].model
    values: list[Any] = []
    for variant in dict.fromkeys(row.variant for row in papers if row.model == model):
        spec = next(s for s in collected.plan.runs.values() if s.run_id == papers[0].run_id)
        assert isinstance(spec, TrainSpec)
        given = tried(collected, section, model, variant)
        values += given.get(cell.column) or [getattr(spec, cell.column, None)]
    mine = list(dict.fromkeys(map(shown, values)))
    theirs = [_canonical(text) for text in cell.value.split(" | ")]
    same = sorted(mine) == sorted(theirs)
    verdict = REPRODUCED if same else DIFFERS
    reason = "the same values" if same else "the study gives other values"
    return verdict_on(cell, what, verdict, reason, " | ".join(mine), "equal", papers[0].run_id)


def _canonical(text: str) -> str:
    try:
        return shown(float(text))
    except ValueError:
        return text
