"""What an accuracy does not show by itself: which examples it is of, ties, and the other score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lomo.study.config import SEEDS, TrainSettings

from ..records.accuracy import AVERAGE, Cell
from ..records.collected import Collected
from ..text.names import method_title
from ..text.units import percent

# Defaults of a study's settings that are the paper's, by which its protocol is known.
AS_THE_PAPER = ("num_train", "num_test", "sample_seed", "epochs", "batch_size", "schedule")
# From this share of a cell's examples on, a cut is no detail.
MUCH = 0.1


def cut_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """How many examples of each model and task were too long, and a warning where many were."""
    counts: dict[str, dict[str, tuple[int, int]]] = {}
    for row in _reported(collected, section, cells):
        for name, num_cut, num in (
            ("test", row.num_cut_test, row.num_test_examples),
            ("training", row.num_cut_train, row.num_train_examples),
        ):
            if num and num_cut is not None:
                # Alike for all methods; of a model that several lengths were tried on, the most.
                found = counts.setdefault(f"{row.model} {row.task}", {})
                found[name] = max(found.get(name, (0, num)), (num_cut, num))
    cut = {of: found for of, found in counts.items() if any(num for num, _ in found.values())}
    if not cut:
        return []
    told = "; ".join(
        f"{of}, {' and '.join(f'{n} of {num} {name}' for name, (n, num) in found.items())}"
        for of, found in cut.items()
    )
    length = getattr(collected.plan.study, section).settings.max_length
    notes = [
        f"Examples cut to max_length ({length} tokens), at the start of their passage: {told}."
    ]
    much = [of for of, found in cut.items() if any(n >= MUCH * num for n, num in found.values())]
    if much:
        notes.insert(
            0,
            f"Warning: a tenth or more of the examples were cut in {', '.join(much)}. What their "
            "passages say may be lost: a longer max_length can change these values.",
        )
    return notes


def tie_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """The runs in which ties could move the value by more than its error."""
    runs = [
        f"{row.run_id} ({row.num_ties} of {row.num_test_examples})"
        for row in _reported(collected, section, cells)
        if row.num_ties and row.num_ties > (row.test_stderr or 0) * row.num_test_examples
    ]
    if not runs:
        return []
    return [
        "Warning: the best candidates tie, and the first of them counts, in more examples than the "
        f"error allows: {', '.join(runs)}."
    ]


def seen_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """How many examples of test were trained on, too."""
    found = {
        f"{row.model} {row.task} ({row.num_test_seen} of {row.num_test_examples})": None
        for row in _reported(collected, section, cells)
        if row.num_test_seen
    }
    if not found:
        return []
    return [f"Warning: examples of test that are trained on, too: {', '.join(found)}."]


def shared_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """How many examples of dev have a passage that is tested, too."""
    found = {
        f"{row.task} ({row.num_dev_shared})": None
        for row in _reported(collected, section, cells)
        if row.num_dev_shared
    }
    if not found:
        return []
    return [
        "Examples of the split that selects whose passage stands in an example of test, too: "
        f"{', '.join(found)}."
    ]


def fewer_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """The tasks that have fewer examples than were asked for."""
    found: dict[str, None] = {}
    for row in _reported(collected, section, cells):
        for name, num, asked in (
            ("training", row.num_train_examples, row.num_train),
            ("test", row.num_test_examples, row.num_test),
        ):
            if num is not None and num < asked:
                found[f"{row.task} ({num} of {asked} for {name})"] = None
    if not found:
        return []
    return [f"Fewer examples than were asked for, all of them used: {', '.join(found)}."]


def token_mean_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """The values that the mean over a candidate's tokens would give, where they are others."""
    rows = {row.run_id: row for row in _reported(collected, section, cells)}
    found: dict[str, list[str]] = {}
    for cell in cells:
        by_mean = [
            rows[run_id].test_accuracy_token_mean for run_id in cell.run_ids if run_id in rows
        ]
        if cell.accuracy is None or cell.task == AVERAGE or None in by_mean or not by_mean:
            continue
        mean = math.fsum(by_mean) / len(by_mean)
        if abs(mean - cell.accuracy) > 1e-9:
            ranks = {other.rank for other in cells if other.method == cell.method}
            title = method_title(cell.method, cell.rank if len(ranks) > 1 else None)
            told = f"{title} {percent(mean)}"
            found.setdefault(f"{cell.model} {cell.task}", []).append(told)
    score = "Candidates are ranked by the total of their tokens' log-likelihoods (the paper's code)"
    if not found:
        return [f"{score}; by their mean (the paper's words) all values are the same."]
    others = "; ".join(f"{of}: {', '.join(values)}" for of, values in found.items())
    return [f"{score}. By their mean (the paper's words) some values are others: {others}."]


def budget_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """How many trials each method had, where they are not as many."""
    trained = [c for c in cells if c.task != AVERAGE and c.method != "zero_shot"]
    found = {cell.method: cell.num_trials for cell in trained}
    if len(set(found.values())) < 2:
        return []
    told = ", ".join(f"{method_title(method)} {number}" for method, number in found.items())
    return [f"Unequal budgets, trials of a cell: {told}. More trials find a better best."]


def departure_notes(collected: Collected, section: str, cells: Sequence[Cell]) -> list[str]:
    """What a study under protocol `paper` sets otherwise than the paper did."""
    study = collected.plan.study
    if study.protocol != "paper":
        return []
    settings = getattr(study, section).settings
    others = [
        f"{name} {getattr(settings, name)} (the paper: {of_paper})"
        for name in AS_THE_PAPER
        if getattr(settings, name) != (of_paper := TrainSettings.model_fields[name].default)
    ]
    seeds = study.seeds_of(getattr(study, section))
    if seeds != SEEDS["paper"]:
        others.append(f"seeds {', '.join(map(str, seeds))} (the paper: {SEEDS['paper'][0]})")
    if not others:
        return []
    return [f"Under protocol paper, and yet otherwise than the paper: {'; '.join(others)}."]


def _reported(collected: Collected, section: str, cells: Sequence[Cell]) -> list[Any]:
    reported = {run_id for cell in cells for run_id in cell.run_ids}
    return [row for row in collected.rows(section) if row.run_id in reported]
