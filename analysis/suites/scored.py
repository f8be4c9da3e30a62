"""Suite records read, and by model, method and suite put together over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lomo.record.suite import Score, SuiteRecord, believed

from ..records.collected import Collected
from ..statistics.difference import Difference
from ..statistics.intervals import Interval, share_interval
from ..statistics.paired import Pairs, difference
from ..text.names import NOT_RUN, method_order, worst_status

BASE = "base"
SECTION = "suites"
Key = tuple[str, str]  # subject and number of an example


@dataclass(frozen=True)
class Run:
    """One record, and its examples' outcomes; None where the metric is no mean of examples."""

    record: SuiteRecord
    seed: int | None
    outcomes: dict[Key, float] | None
    prompts: dict[Key, str]


@dataclass(frozen=True)
class Entry:
    """One cell: a model as a method left it, on one suite, over its seeds."""

    model: str
    method: str
    suite: str
    run_ids: tuple[str, ...]
    runs: tuple[Run, ...]
    status: str
    why: str | None

    @property
    def scores(self) -> list[Score]:
        """The scores of the runs that ended well."""
        return [run.record.score for run in self.runs if run.record.score is not None]

    @cached_property
    def value(self) -> float | None:
        """The mean over seeds; None unless all runs ended well."""
        if self.status != "ok":
            return None
        values = [score.value for score in self.scores]
        return sum(values) / len(values)

    @cached_property
    def interval(self) -> Interval | None:
        """95 %: over subjects, or examples where there are none, and over seeds."""
        found = self._outcomes() if self.status == "ok" else None
        if found is None:
            return None
        outcomes, groups = found
        if len(outcomes) == 1 and groups is None and set(np.unique(outcomes)) <= {0.0, 1.0}:
            return share_interval(float(outcomes.mean()), outcomes.shape[1])
        of_mean = difference([Pairs(outcomes, groups)])
        half = of_mean.half()
        half = of_mean.alone.half(0.025) if half is None else half
        return (max(0.0, of_mean.value - half), min(1.0, of_mean.value + half))

    def _outcomes(self) -> tuple[NDArray[np.float64], NDArray[np.int64] | None] | None:
        """Seeds x examples, and each example's subject where there are several."""
        if any(run.outcomes is None for run in self.runs):
            return None
        keys = list(self.runs[0].prompts)
        if any(run.prompts.keys() != set(keys) for run in self.runs):
            return None
        rows = [[(run.outcomes or {})[key] for key in keys] for run in self.runs]
        return np.array(rows, dtype=float), groups_of(keys)


def groups_of(keys: Sequence[Key]) -> NDArray[np.int64] | None:
    """The number of each example's subject; None where all are of one."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(subject, len(numbers)) for subject, _ in keys]
    return np.array(found, dtype=np.int64) if len(numbers) > 1 else None


def entries(collected: Collected) -> list[Entry]:
    """The cells by model, base first, and suite. Raises UserError for a record that is not
    believed."""
    planned: dict[tuple[str, str, str], list[Any]] = {}
    for spec in collected.plan.suites.values():
        planned.setdefault((spec.model, spec.method, spec.task), []).append(spec)
    models = list(collected.plan.models)
    suites = list(dict.fromkeys(task for _, _, task in planned))

    def order(key: tuple[str, str, str]) -> Any:
        model, method, suite = key
        return models.index(model), method != BASE, method_order(method), suites.index(suite)

    return [_entry(collected, *key, planned[key]) for key in sorted(planned, key=order)]


def _entry(collected: Collected, model: str, method: str, suite: str, specs: list[Any]) -> Entry:
    runs, statuses, why = [], [], None
    for spec in specs:
        path = collected.run_folder(spec.run_id) / "record.json"
        if not path.is_file():
            statuses.append(NOT_RUN)
            continue
        record, lines = believed(path, spec)
        statuses.append(record.status)
        why = why or record.evidence
        keys = [(line["subject"], str(line["doc_id"])) for line in lines]
        values = [line["outcome"] for line in lines]
        outcomes = None if None in values else dict(zip(keys, values, strict=True))
        prompts = dict(zip(keys, (line["prompt_sha256"] for line in lines), strict=True))
        runs.append(Run(record, spec.seed, outcomes, prompts))
    well = all(status == "ok" for status in statuses)
    status = "ok" if well else worst_status(s for s in statuses if s != "ok")
    run_ids = tuple(spec.run_id for spec in specs)
    return Entry(model, method, suite, run_ids, tuple(runs), status, why)


@dataclass(frozen=True)
class Change:
    """What tuning changed on one suite, on the same examples; None with the reason."""

    found: Difference | None
    reason: str | None = None

    @property
    def p(self) -> float | None:
        """Of one seed by its examples alone."""
        if self.found is None:
            return None
        return self.found.p_of_examples if self.found.p is None else self.found.p

    @property
    def interval(self) -> Interval | None:
        """95 %; of one seed by its examples alone."""
        if self.found is None:
            return None
        half = self.found.half()
        half = self.found.alone.half(0.025) if half is None else half
        return (self.found.value - half, self.found.value + half)


def change(tuned: Entry, base: Entry | None) -> Change:
    """A tuned model's difference to its base, paired by example, and by seed where both have."""
    if base is None:
        return Change(None, "the base model was not scored on it")
    if tuned.status != "ok" or base.status != "ok":
        return Change(None, "one of the two did not end well")
    of_base = {run.seed: run for run in base.runs}
    rows = []
    keys = list(tuned.runs[0].prompts)
    for run in tuned.runs:
        other = of_base.get(run.seed, of_base.get(None))
        if other is None:
            return Change(None, f"the base model of seed {run.seed} was not scored")
        if run.outcomes is None or other.outcomes is None:
            return Change(None, "its metric is no mean of single examples")
        if run.prompts != other.prompts or run.prompts.keys() != set(keys):
            return Change(None, "the two were asked different prompts")
        rows.append([run.outcomes[key] - other.outcomes[key] for key in keys])
    return Change(difference([Pairs(np.array(rows, dtype=float), groups_of(keys))]))
