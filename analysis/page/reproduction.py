"""What a reproduction report says, in the order that such reports have: of records, verdicts, and
what analysis/paper holds of the paper. No number comes from elsewhere.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ..paper.questions import errata, open_questions
from ..records.collected import Collected
from ..text.grid import Block, Cell, Table
from ..text.names import NOT_RUN, listed, method_title, status_text, task_title
from ..text.units import EN_DASH, decimals, p_text
from ..verdicts.all import all_verdicts, difference_text, n_text
from ..verdicts.decided import LEVEL
from ..verdicts.verdict import (
    MEMORY,
    PREDICTED,
    REPRODUCED,
    TESTED,
    Verdict,
    counts_by_kind,
)
from .findings import Finding, findings

PAPER = "Full Parameter Fine-tuning for Large Language Models with Limited Resources (ACL 2024)"
MOST_REASONS = 2  # the most frequent first


@dataclass(frozen=True)
class Section:
    """One heading of the summary: sentences, points, and a table where it has one."""

    title: str
    text: str = ""
    points: Sequence[str] = field(default_factory=list)
    table: Table | None = None


def sections(collected: Collected) -> list[Section]:
    """The summary of a collected study."""
    verdicts = all_verdicts(collected)
    found = findings(verdicts)
    return [
        _scope(collected, verdicts, found),
        _methodology(collected, verdicts),
        Section("Results", _counted(verdicts), table=_results(found)),
        Section("What was easy", points=_easy(collected, verdicts, found)),
        Section("What was difficult", points=_difficult(collected, verdicts, found)),
        Section(
            "Open questions of the paper, and what was assumed",
            "Below them, printed values that contradict others in print.",
            points=errata(),
            table=_questions(),
        ),
        Section(
            "Communication with the authors",
            "None for this study. Issues are those of the authors' public repository.",
        ),
    ]


def _scope(collected: Collected, verdicts: Sequence[Verdict], found: Sequence[Finding]) -> Section:
    study, runs = collected.plan.study, collected.runs
    numbers = [verdict for verdict in verdicts if not verdict.order]
    tried = (verdict for verdict in numbers if verdict.verdict in TESTED)
    models, tasks = (listed(map(str, _distinct(runs, name))) for name in ("model", "task"))
    methods = listed(method_title(str(method)) for method in _distinct(runs, "method"))
    tasks = listed(task_title(str(task)) for task in _distinct(runs, "task"))
    data = {"generated": "generated data in SuperGLUE's layout", "superglue": "SuperGLUE"}
    on = f" on {tasks} ({data.get(study.data, 'own data')})" if tasks else ""
    return Section(
        "Scope of reproducibility",
        f"Whether {len(found)} claims of {PAPER} hold, and {decimals(len(numbers), 0)} values that "
        f"it prints, of which {decimals(sum(1 for _ in tried), 0)} could be put to the test here. "
        f"Study {study.study}: {f'{models} with {methods}{on}' if models else 'suites alone'}.",
    )


def _distinct(runs: pd.DataFrame, column: str) -> list[Any]:
    return list(dict.fromkeys(runs[column].dropna()))


def _methodology(collected: Collected, verdicts: Sequence[Verdict]) -> Section:
    runs = collected.runs
    done = runs[runs["status"] != NOT_RUN]
    trained = done[done["kind"] == "train"]
    study = collected.plan.study
    hours = done["clock_wall_s"].sum() / 3600
    devices = listed(map(str, _distinct(done, "device_name")))
    points = [
        "The optimizers were written anew from the paper. One run is one process with one record, "
        "and what stands here is made from records (docs/measurement.md, docs/protocol.md).",
        f"{decimals(len(done), 0)} of {decimals(len(runs), 0)} planned runs have a record, on "
        f"{devices or 'no device'}: {decimals(hours, 1)} hours of their own clocks together.",
    ]
    if len(trained):
        seeds = listed(map(str, sorted(_distinct(trained, "seed"))))
        picks = "a part of train" if study.selection == "dev" else "the reported examples"
        points.append(
            f"Protocol {study.protocol}: epoch and trial are picked on {picks}; seeds {seeds}; "
            f"{_trials(collected)}. Scored by lm-eval, zero-shot prompts."
        )
    if any(verdict.tested for verdict in verdicts):
        points.append(
            "Orders of accuracy and of speed are decided by paired tests, p at most "
            f"{LEVEL:g} after Holm's correction for the claims of a table; else they are undecided."
        )
    if any(verdict.basis == PREDICTED for verdict in verdicts):
        points.append(
            "Memory at the paper's size is predicted: the meter that measures runs goes over the "
            "same step without allocating it (docs/prediction.md)."
        )
    return Section("Methodology", points=points)


def _trials(collected: Collected) -> str:
    """How many points each method tried, in words."""
    trained = collected.runs[collected.runs["kind"] == "train"]
    tried = trained[trained["method"] != "zero_shot"].groupby("variant")["trial"].nunique()
    numbers = sorted(set(tried))
    if not numbers:
        return "nothing is trained"
    if len(numbers) == 1:
        return f"{numbers[0]} {'trial' if numbers[0] == 1 else 'trials'} of each method"
    return f"{numbers[0]} to {numbers[-1]} trials of a method"


def _counted(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts there are, kind by kind."""
    texts = []
    for kind, of in counts_by_kind(verdicts).items():
        texts.append(f"{kind} {listed(f'{text} {name}' for name, text in of.items() if text)}")
    return f"All verdicts, printed values and claims: {'; '.join(texts)}."


def _results(found: Sequence[Finding]) -> Table:
    columns = ["claim", "verdict", "evidence", "n", "p", "stands on"]
    rows: list[list[Cell | str]] = [
        [one.text, _verdicts(one), _evidence(one), _n(one.of), _p(one.of), one.basis]
        for one in found
    ]
    data = pd.DataFrame([[str(cell) for cell in row] for row in rows], columns=columns)
    prose = frozenset(columns[1:])
    block = Block(columns, rows, 1, prose=prose)
    caption = "What became of the paper's claims."
    return Table("summary_results", "Results", caption, [block], [], data)


def _verdicts(finding: Finding) -> str:
    if len(finding.verdicts) == 1 and finding.verdicts[0][1] == 1:
        return finding.verdicts[0][0]
    return listed(f"{number} {name}" for name, number in finding.verdicts)


def _evidence(finding: Finding) -> str:
    """The numbers of the first order that was measured, else those of the finding."""
    orders = [verdict for verdict in finding.of if verdict.order and verdict.measured]
    if not orders:
        return finding.detail
    told = difference_text(orders[0])
    return f"{orders[0].measured}{'' if told == EN_DASH else f'; {told}'}"


def _n(of: Sequence[Verdict]) -> str:
    tested = list(dict.fromkeys(n_text(verdict) for verdict in of if verdict.tested))
    if tested:
        return listed(tested)
    numbers = [verdict for verdict in of if verdict.verdict in TESTED and not verdict.order]
    return f"{len(numbers)} values" if len(numbers) > 1 else EN_DASH


def _p(of: Sequence[Verdict]) -> str:
    known = sorted(v.tested.p for v in of if v.tested is not None and v.tested.p is not None)
    if not known:
        return EN_DASH
    ends = dict.fromkeys((p_text(known[0]), p_text(known[-1])))
    return " to ".join(ends)


def _easy(collected: Collected, verdicts: Sequence[Verdict], found: Sequence[Finding]) -> list[str]:
    """What holds in all that was put to the test, and what went without a fault."""
    held = Counter(one.kind for one in found if {name for name, _ in one.verdicts} == {REPRODUCED})
    points = []
    if held:
        kinds = listed(f"{number} of {kind}" for kind, number in held.items())
        points.append(
            f"Of the {len(found)} claims these hold in all that was put to the test: {kinds}."
        )
    memory = [v for v in verdicts if v.kind == MEMORY and v.basis == PREDICTED and not v.order]
    right = sum(verdict.verdict == REPRODUCED for verdict in memory)
    if memory:
        points.append(
            f"Memory is a count of bytes: {right} of {len(memory)} printed values are predicted "
            "within tolerance, with no GPU at hand."
        )
    done = collected.runs[collected.runs["status"] != NOT_RUN]
    if len(done) and set(done["status"]) == {"ok"}:
        points.append(
            f"Every run with a record ended well: the median one took "
            f"{decimals(done['clock_wall_s'].median(), 1)} s, the longest "
            f"{decimals(done['clock_wall_s'].max(), 1)} s."
        )
    return points or ["Nothing that the records tell."]


def _difficult(
    collected: Collected, verdicts: Sequence[Verdict], found: Sequence[Finding]
) -> list[str]:
    """What differs, what stays undecided, what could not be put to the test, and what failed."""
    points = []
    for one in found:
        odd = [v for v in one.of if v.verdict in TESTED and v.verdict != REPRODUCED]
        if odd:
            counts = Counter(verdict.verdict for verdict in odd)
            names = listed(f"{number} {name}" for name, number in counts.items())
            points.append(f"{one.text}: {names} ({_first(map(_why, odd))}).")
    rest = [verdict for verdict in verdicts if verdict.verdict not in TESTED]
    if rest:
        points.append(
            f"{decimals(len(rest), 0)} of {decimals(len(verdicts), 0)} could not be put to the "
            f"test: {_first(verdict.reason for verdict in rest)}."
        )
    statuses = Counter(map(str, collected.runs["status"]))
    lost = {name: number for name, number in statuses.items() if name != "ok"}
    if lost:
        texts = (
            f"{number} {'without a record' if name == NOT_RUN else status_text(name)}"
            for name, number in lost.items()
        )
        points.append(f"Runs that did not end well: {listed(texts)}.")
    return points or ["Nothing that the records tell."]


def _why(verdict: Verdict) -> str:
    """What is odd of a tested verdict: of an order its reason, of a number both values."""
    if verdict.order:
        reason = re.sub(r" \([^)]*\)", "", verdict.reason)
        return re.sub(r"^as an order, on [^;]+; ", "", reason)
    return f"{verdict.what} {verdict.measured}, printed {verdict.printed}"


def _first(texts: Iterable[str]) -> str:
    """The most frequent of the texts, and how often each stands there."""
    counts = Counter(texts)
    shown = counts.most_common(MOST_REASONS)
    told = [f"{text}, {number} times" if number > 1 else text for text, number in shown]
    more = len(counts) - len(shown)
    return "; ".join([*told, *([f"and {more} more"] if more else [])])


def _questions() -> Table:
    columns = ["question", "assumed here", "stands in"]
    rows: list[list[Cell | str]] = [
        [one.question, one.assumed, one.stands_in] for one in open_questions()
    ]
    prose = frozenset(columns[1:])
    data = pd.DataFrame([[str(cell) for cell in row] for row in rows], columns=columns)
    block = Block(columns, rows, 1, prose=prose)
    caption = "What the paper leaves open, and what is assumed here."
    return Table("summary_questions", "Open questions", caption, [block], [], data)
