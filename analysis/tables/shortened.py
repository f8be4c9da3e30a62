"""What an accuracy does not show by itself: examples cut or trained on, and scores that tie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..records.accuracy import Cell
from ..records.collected import Collected

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


def _reported(collected: Collected, section: str, cells: Sequence[Cell]) -> list[Any]:
    reported = {run_id for cell in cells for run_id in cell.run_ids}
    return [row for row in collected.rows(section) if row.run_id in reported]
