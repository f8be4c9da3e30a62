"""Below Table 3: how methods rank over the tasks, and how alike the seeds answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..records import accuracy, compared
from ..records.accuracy import AVERAGE
from ..records.collected import Collected
from ..statistics.several import friedman, nemenyi, ranks
from ..text.grid import Block, Cell
from ..text.names import method_title, task_title
from ..text.units import decimals, p_is, percent


def variant_title(cells: Sequence[accuracy.Cell], cell: accuracy.Cell) -> str:
    """The method's name, with the rank where a method stands with more than one."""
    ranks = {other.rank for other in cells if other.method == cell.method}
    return method_title(cell.method, cell.rank if len(ranks) > 1 else None)


def mean_ranks(
    cells: Sequence[accuracy.Cell], model: str
) -> tuple[dict[str, float], int, float | None]:
    """Variant -> mean rank over the tasks of a model, of the trained ones that have a value in each
    task; how many tasks; and Friedman's p that all are alike. Empty of fewer than two."""
    mine = [c for c in cells if c.model == model and c.task != AVERAGE and c.method != "zero_shot"]
    of: dict[str, list[float]] = {}
    for cell in mine:
        of.setdefault(cell.variant, []).append(
            float("nan") if cell.accuracy is None else cell.accuracy
        )
    whole = {variant: row for variant, row in of.items() if not np.isnan(row).any()}
    if len(whole) < 2:
        return {}, 0, None
    scores = np.array(list(whole.values())).T
    means = ranks(scores).mean(axis=0)
    return dict(zip(whole, map(float, means), strict=True)), len(scores), friedman(scores)


def alike_over(
    collected: Collected, cells: Sequence[accuracy.Cell], cell: accuracy.Cell
) -> float | None:
    """The share of examples that all seeds get right, or all wrong; of an average, the mean over
    its tasks. None where a task has one seed."""
    found = [compared.alike(collected, each) for each in compared.behind(cells, cell)]
    known = [share for share in found if share is not None]
    return sum(known) / len(known) if known and len(known) == len(found) else None


def ranks_and_alike(
    collected: Collected, cells: Sequence[accuracy.Cell], section: str
) -> list[Block]:
    """A block of mean ranks over two or more tasks, and one of how alike several seeds are."""
    tasks = accuracy.tasks_of(collected, section)
    ranked: list[list[Cell | str]] = []
    alike: list[list[Cell | str]] = []
    for model in collected.models(section):
        means, num_tasks, _ = mean_ranks(cells, model)
        for variant in accuracy.variants(cells, model):
            row = [cell for cell in cells if (cell.model, cell.variant) == (model, variant)]
            keys: list[Cell | str] = [model, variant_title(cells, row[0])]
            if num_tasks > 1 and variant in means:
                ranked.append([*keys, decimals(means[variant], 2)])
            shares = [alike_over(collected, cells, cell) for cell in row]
            if any(share is not None for share in shares):
                alike.append(keys + [percent(share) for share in shares])
    blocks = []
    if alike:
        heads = ["model", "method", *map(task_title, tasks), AVERAGE]
        heading = "Examples that all seeds get right, or all wrong (%)"
        blocks.append(Block(heads, alike, 2, heading=heading))
    if ranked:
        heads = ["model", "method", "mean rank"]
        blocks.append(Block(heads, ranked, 2, heading="Mean rank over the tasks"))
    return blocks


def rank_notes(collected: Collected, cells: Sequence[accuracy.Cell], section: str) -> list[str]:
    """From which distance on ranks differ, and how often chance ranks methods so unequally."""
    notes = []
    for model in collected.models(section):
        means, num_tasks, p = mean_ranks(cells, model)
        if num_tasks > 1 and p is not None:
            least = decimals(nemenyi(len(means), num_tasks), 2)
            notes.append(
                f"Mean ranks on {model}, 1 the best, of trained methods with a value in each task: "
                f"two differ from a distance of {least} on (Nemenyi, 5 %); that all are alike: "
                f"{p_is(p)} (Friedman)."
            )
    return notes
