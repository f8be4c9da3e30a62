"""The `rounding` section: each method under each treatment of its weights, over tasks and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from lomo.record.applied import APPLIED_GROUPS
from lomo.study.trials import why_not_treated

from ..records.accuracy import AVERAGE, Cell, accuracy_cells, tasks_of
from ..records.collected import Collected
from ..records.histories import curve
from ..text.names import NOT_RUN

SECTION = "rounding"
TITLES = {
    "float32": "float32",
    "bfloat16": "bfloat16, nearest",
    "bfloat16_stochastic": "bfloat16, stochastic",
    "float16": "float16, scaled loss",
}


@dataclass(frozen=True)
class Treated:
    """A method's runs of one treatment, averaged over tasks and seeds; None where none is known.

    cell: its accuracy. loss: of the last epoch, in nats a token. grad_norm: the running mean at the
    last step. share: of the intended step that was applied; shares and moved: the same by group of
    weights, and the share of elements that moved. intended: what the step is compared with.
    reason: why the method has no run of it.
    """

    model: str
    variant: str
    method: str
    rank: int | None
    treatment: str
    cell: Cell | None = None
    loss: float | None = None
    grad_norm: float | None = None
    share: float | None = None
    shares: dict[str, float] | None = None
    moved: dict[str, float] | None = None
    intended: str | None = None
    reason: str | None = None


@cache
def treated(collected: Collected) -> tuple[Treated, ...]:
    """All of the section by model, method and treatment; what is left out has a reason."""
    section = collected.plan.study.rounding
    if section is None:
        return ()
    cells = accuracy_cells(collected, SECTION)
    found = []
    for model in collected.models(SECTION):
        own = [cell for cell in cells if cell.model == model and cell.task == AVERAGE]
        for method in section.methods:
            of_method = [cell for cell in own if cell.method == method]
            ranks = dict.fromkeys(cell.rank for cell in of_method)
            for rank in ranks:
                for treatment in section.treatments:
                    cell = next(
                        (
                            cell
                            for cell in of_method
                            if cell.rank == rank and cell.variant.endswith(f"-{treatment}")
                        ),
                        None,
                    )
                    reason = why_not_treated(method, treatment)
                    place = Treated(model, "", method, rank, treatment, reason=reason)
                    found.append(place if cell is None else _of(collected, cell, treatment))
    return tuple(found)


def _of(collected: Collected, average: Cell, treatment: str) -> Treated:
    of_tasks = [
        cell
        for cell in accuracy_cells(collected, SECTION)
        if (cell.model, cell.variant) == (average.model, average.variant) and cell.task != AVERAGE
    ]
    ids = {run_id for cell in of_tasks for run_id in cell.run_ids}
    runs = [row for row in collected.rows(SECTION) if row.run_id in ids and row.status != NOT_RUN]
    curves = [curve(collected, cell, "grad_norm", "steps") for cell in of_tasks]

    def by_group(what: str) -> dict[str, float]:
        values = {
            group: _mean(getattr(row, f"applied_{what}_{group}") for row in runs)
            for group in APPLIED_GROUPS
        }
        return {group: value for group, value in values.items() if value is not None}

    return Treated(
        model=average.model,
        variant=average.variant,
        method=average.method,
        rank=average.rank,
        treatment=treatment,
        cell=average,
        loss=_mean(row.last_epoch_loss for row in runs),
        grad_norm=_mean(each.mean[-1] for each in curves if each is not None),
        share=_mean(row.applied_share for row in runs),
        shares=by_group("share"),
        moved=by_group("moved"),
        intended=next((row.applied_intended for row in runs if row.applied_intended), None),
    )


def _mean(values: Iterable[Any]) -> float | None:
    known = [float(value) for value in values if value is not None and not pd.isna(value)]
    return sum(known) / len(known) if known else None


def tasks(collected: Collected) -> list[str]:
    """The tasks of the section."""
    return tasks_of(collected, SECTION)
