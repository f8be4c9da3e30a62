"""The table of suites: models and methods by suite, and beside tuned rows what tuning changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lomo.suites.known import SUITES

from ..records.collected import Collected
from ..statistics.several import holm
from ..text.grid import Block, Cell, Notes, Table
from ..text.names import NOT_RUN, method_title, status_text
from ..text.units import EN_DASH, p_is, percent
from .scored import BASE, Change, Entry, change, entries

COLUMNS = (
    *("model", "method", "suite", "status", "value", "low", "high", "num_seeds", "num_examples"),
    *("num_subjects", "num_cut", "num_unfinished", "max_gen_toks", "metric", "scoring"),
    *("num_fewshot", "limit", "task_version"),
    *("lm_eval", "prompts_sha256", "change", "change_low", "change_high", "p", "p_holm", "reason"),
)


def table_suites(collected: Collected) -> Table:
    """The suites section of the study."""
    found = entries(collected)
    bases = {(e.model, e.suite): e for e in found if e.method == BASE}
    tuned = [e for e in found if e.method != BASE]
    changes = {id(e): change(e, bases.get((e.model, e.suite))) for e in tuned}
    corrected = dict(zip(changes, holm([c.p for c in changes.values()]), strict=True))
    notes = Notes()
    suites = list(dict.fromkeys(e.suite for e in found))
    blocks = [_scores(found, suites, notes)] if found else []
    if tuned:
        blocks.append(_changes(tuned, suites, changes, corrected, notes))
    rows = [_data(e, changes.get(id(e)), corrected.get(id(e))) for e in found]
    return Table(
        name="table_suites",
        title="Benchmark suites: scores by lm-eval",
        caption=_caption(found, suites),
        blocks=blocks,
        notes=[*notes.texts(), *_notes(collected, found, bool(tuned))],
        data=pd.DataFrame(rows, columns=list(COLUMNS)),
    )


def _caption(found: Sequence[Entry], suites: Sequence[str]) -> str:
    if not found:
        return "Not run: the study has no suites section."
    told = []
    for suite in suites:
        score = next((s for e in found if e.suite == suite for s in e.scores), None)
        if score is None:
            told.append(f"{title(suite)}: no run ended well.")
            continue
        several = score.num_subjects > 1
        size = f"n {score.num_examples:,}" + (
            f" in {score.num_subjects} subjects" if several else ""
        )
        tokens = f"answers of at most {score.max_gen_toks:,} tokens; " if score.max_gen_toks else ""
        limit = f", the first {score.limit} {'each' if several else 'alone'}" if score.limit else ""
        told.append(
            f"{score.title}: {score.scoring}; {score.num_fewshot}-shot; {tokens}{size}{limit}."
        )
    lead = (
        "In %, behind it the 95 % interval: by subject where a suite has several, and over seeds."
    )
    return " ".join([lead, *told])


def title(suite: str) -> str:
    """What a suite is called."""
    return SUITES[suite].title if suite in SUITES else suite


def _keys(found: Sequence[Entry]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((e.model, e.method) for e in found))


def _row_title(method: str) -> str:
    return "base" if method == BASE else method_title(method)


def _scores(found: Sequence[Entry], suites: Sequence[str], notes: Notes) -> Block:
    cells = {(e.model, e.method, e.suite): e for e in found}
    rows: list[list[Cell | str]] = []
    for model, method in _keys(found):
        of_row = [cells.get((model, method, suite)) for suite in suites]
        rows.append([model, _row_title(method), *(_score(entry, notes) for entry in of_row)])
        if len(suites) > 1:
            values = [entry.value if entry else None for entry in of_row]
            known = [value for value in values if value is not None]
            whole = len(known) == len(suites)
            rows[-1].append(percent(sum(known) / len(known)) if whole else EN_DASH)
    heads = ["model", "method", *map(title, suites), *(["average"] if len(suites) > 1 else [])]
    return Block(heads, rows, 2)


def _score(entry: Entry | None, notes: Notes) -> Cell | str:
    if entry is None:
        return EN_DASH
    runs = tuple(run.record.run_id for run in entry.runs)
    if entry.value is None:
        mark = notes.mark([entry.why]) if entry.why else None
        return Cell(status_text(entry.status), remark=mark, runs=runs)
    ends = entry.interval
    cut = sum(score.num_cut for score in entry.scores)
    marks = []
    if cut:
        whole = sum(score.num_examples for score in entry.scores)
        marks.append(f"{cut:,} of {whole:,} prompts were longer than the model and lost their head")
    remark = f"{percent(ends[0])} to {percent(ends[1])}" if ends else None
    if marks:
        remark = " ".join(filter(None, [f"{remark};" if remark else None, notes.mark(marks)]))
    return Cell(percent(entry.value), remark=remark, runs=runs)


def _changes(
    tuned: Sequence[Entry],
    suites: Sequence[str],
    changes: dict[int, Change],
    corrected: dict[int, float | None],
    notes: Notes,
) -> Block:
    cells = {(e.model, e.method, e.suite): e for e in tuned}
    rows: list[list[Cell | str]] = []
    for model, method in _keys(tuned):
        row: list[Cell | str] = [model, _row_title(method)]
        for suite in suites:
            entry = cells.get((model, method, suite))
            if entry is None:
                row.append(EN_DASH)
                continue
            row.append(_change(entry, changes[id(entry)], corrected[id(entry)], notes))
        rows.append(row)
    heads = ["model", "method", *map(title, suites)]
    return Block(heads, rows, 2, heading="Change against the base model, points")


def _change(entry: Entry, found: Change, p: float | None, notes: Notes) -> Cell | str:
    if found.found is None or p is None:
        return Cell(EN_DASH, remark=notes.mark([found.reason]) if found.reason else None)
    value = found.found.value
    sign = "+" if value > 0 else ""
    runs = tuple(run.record.run_id for run in entry.runs)
    decided = p <= 0.05
    return Cell(f"{sign}{percent(value)}", remark=p_is(p), bold=decided, runs=runs)


def _notes(collected: Collected, found: Sequence[Entry], tuned: bool) -> list[str]:
    if not found:
        return []
    scores = [score for entry in found for score in entry.scores]
    versions = sorted({score.lm_eval for score in scores})
    notes = [collected.plan.study.note] if collected.plan.study.note else []
    if versions:
        notes.append(
            f"Prompts and scoring are those of lm-eval {', '.join(versions)}; task versions and a "
            "hash of all prompts stand in the records."
        )
    if tuned:
        seeds = {len(entry.runs) for entry in found if entry.method != BASE}
        one = " One seed: what another seed would change is not in it." if seeds == {1} else ""
        notes.append(
            "A change is paired by example; p is corrected by Holm over all changes of this table, "
            f"and one of at most 0.05 is in bold.{one}"
        )
    notes += _unfinished_notes(found)
    if any(entry.status == NOT_RUN for entry in found):
        notes.append("An en dash: it has no record yet.")
    return notes


def _unfinished(entry: Entry) -> int | None:
    """Answers that took all their tokens, over the seeds; None where none is written."""
    found = [score.num_unfinished for score in entry.scores]
    known = [number for number in found if number is not None]
    return sum(known) if known else None


def _unfinished_notes(found: Sequence[Entry]) -> list[str]:
    """A line for each suite with such answers: how many, of each row."""
    by_suite: dict[str, list[str]] = {}
    models = {entry.model for entry in found}
    for entry in found:
        if number := _unfinished(entry):
            row = _row_title(entry.method)
            row = f"{entry.model} {row}" if len(models) > 1 else row
            whole = sum(score.num_examples for score in entry.scores)
            by_suite.setdefault(entry.suite, []).append(f"{row} {number:,} of {whole:,}")
    return [
        f"{title(suite)}: answers that took all their tokens without an end, and are scored as far "
        f"as they go: {', '.join(rows)}."
        for suite, rows in by_suite.items()
    ]


def _data(entry: Entry, found: Change | None, p: float | None) -> dict[str, Any]:
    score = next(iter(entry.scores), None)
    low, high = entry.interval or (None, None)
    change_low, change_high = (found.interval if found else None) or (None, None)
    names = (
        *("num_examples", "num_subjects", "max_gen_toks", "metric", "scoring", "num_fewshot"),
        *("limit", "task_version", "lm_eval", "prompts_sha256"),
    )
    return {
        **{"model": entry.model, "method": entry.method, "suite": entry.suite},
        **{"status": entry.status, "value": entry.value, "low": low, "high": high},
        "num_seeds": len(entry.runs),
        "num_cut": sum(s.num_cut for s in entry.scores) if score else None,
        "num_unfinished": _unfinished(entry),
        **{name: getattr(score, name, None) for name in names},
        "change": found.found.value if found and found.found else None,
        **{"change_low": change_low, "change_high": change_high},
        "p": found.p if found else None,
        "p_holm": p,
        "reason": entry.why or (found.reason if found else None),
    }
