"""What W&B shows of a study: the tables' columns as panels, methods by name and colour, and out of
sight the runs that no table reads.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache

from lomo.record.remote.naming import cell_of, key_of, wandb_id

from ..instruct.tuned import SECTION, tuned
from ..records.accuracy import AVERAGE, Cell, accuracy_cells
from ..records.collected import Collected
from ..records.comparable import size_of, size_text
from ..suites.scored import BASE
from ..suites.table import title as suite_title
from ..text.names import method_title, task_title
from ..text.style import method_colour


@dataclass(frozen=True)
class Column:
    """A column of a table: the key of its values in the runs' summaries, and what it is called."""

    key: str
    title: str


def accuracy_columns(collected: Collected) -> list[Column]:
    """A column for each model and task of Table 3."""
    pairs = dict.fromkeys((cell.model, cell.task) for cell in _cells(collected))
    return [
        Column(key_of("accuracy", model, task), f"{task_title(task)}, {model}")
        for model, task in pairs
    ]


def measured_columns(collected: Collected, section: str, quantity: str) -> list[Column]:
    """A column for each model and setting of a section of measured runs."""
    titles: dict[str, str] = {}
    for row in collected.rows(section):
        checkpointed = ", checkpointed" if row.activation_checkpointing else ""
        title = f"{row.model}, {size_text(size_of(row))}{checkpointed}"
        titles.setdefault(key_of(quantity, row.model, cell_of(row.run_id)), title)
    return [Column(key, title) for key, title in titles.items()]


def instruct_columns(collected: Collected) -> list[Column]:
    """A column for each model that was trained on instructions."""
    models = dict.fromkeys(each.model for each in tuned(collected) if each.status == "ok")
    return [Column(key_of("perplexity", model, SECTION), model) for model in models]


def suite_columns(collected: Collected) -> list[Column]:
    """A column for each model and benchmark suite."""
    pairs = dict.fromkeys((spec.model, spec.task) for spec in collected.plan.suites.values())
    return [
        Column(key_of("suite_score", model, task), f"{suite_title(task)}, {model}")
        for model, task in pairs
    ]


def colours(collected: Collected) -> dict[str, str]:
    """The title of each method of the study -> its colour, in the tables' order."""
    methods = [row.method for section in collected.plan.sections for row in collected.rows(section)]
    found = {method_title(method): method_colour(method) for method in dict.fromkeys(methods)}
    # The untuned model, as the suites' table calls it: in the colour that it has as zero-shot.
    base = {BASE: method_colour("zero_shot")} if collected.plan.suites else {}
    return base | found


def tasks(collected: Collected) -> list[str]:
    """The tasks of Table 3 that have an accuracy, in its order."""
    return list(dict.fromkeys(cell.task for cell in _cells(collected)))


def _cells(collected: Collected) -> list[Cell]:
    cells = accuracy_cells(collected, "superglue")
    return [cell for cell in cells if cell.status == "ok" and cell.task != AVERAGE]


@cache
def out_of_sight(collected: Collected) -> list[str]:
    """W&B's ids of the runs that no such column reads: other trials, other sections."""
    measured = [row for section in ("memory", "throughput") for row in collected.rows(section)]
    read = {row.run_id for row in measured}
    read |= {run_id for cell in _cells(collected) for run_id in cell.run_ids}
    read |= {run_id for each in tuned(collected) if each.status == "ok" for run_id in each.run_ids}
    ids = (_id(collected, run_id) for run_id in collected.plan.runs if run_id not in read)
    return [identity for identity in ids if identity]


def _id(collected: Collected, run_id: str) -> str:
    """A run's id there: it tells of the record where runs were sent from their records."""
    study = collected.plan.study
    if study.wandb == "online":
        return wandb_id(study.study, run_id)
    record = collected.run_folder(run_id) / "record.json"
    if not record.is_file():
        return ""
    return wandb_id(study.study, run_id, hashlib.sha256(record.read_bytes()).hexdigest())
