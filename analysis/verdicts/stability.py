"""Whether a study's verdicts would be the same with other seeds, and on another CPU.

Studies that differ only in what they were computed with are cut into parts of some seeds each;
every part is judged as a study of its own, and stands in a column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from lomo.errors import UserError
from lomo.specs import TrainSpec

from ..records.accuracy import AVERAGE, accuracy_cells, find, variants
from ..records.collected import Collected
from ..records.compared import behind, compared
from ..statistics.difference import Difference
from ..statistics.several import holm
from ..text.grid import Block, Cell, Table
from ..text.names import listed, method_title
from ..text.units import EN_DASH, decimals
from .decided import LEVEL
from .orders import order_verdicts
from .verdict import ACCURACY, DIFFERS, REPRODUCED, UNDECIDED

SECTION = "superglue"
NUM_SEEDS = 3  # of a part: as many as the default study has
ABOVE, BELOW = "above", "below"
_DECIDED = (REPRODUCED, DIFFERS, ABOVE, BELOW)
SAME, PARTLY, TURNED, NEVER = (
    "the same in all",
    "decided in some",
    "turned round",
    "undecided in all",
)


@dataclass(frozen=True)
class Part:
    """Some seeds of a study, judged alone: its name, and of each order (what is said, the
    difference in points where it is known)."""

    name: str
    orders: dict[str, tuple[str, float | None]]


def table_stability(studies: Sequence[Collected]) -> Table:
    """The verdicts on accuracy of each three seeds of the studies, side by side.

    Raises UserError for a study without three seeds, or one that ran on two kinds of CPU.
    """
    parts = [part for collected in studies for part in parts_of(collected)]
    names = list(dict.fromkeys(name for part in parts for name in part.orders))
    over_all = {
        name: _over_all([part.orders.get(name, _NONE)[0] for part in parts]) for name in names
    }
    columns = ["order", *(part.name for part in parts), "over all"]
    rows: list[list[Cell | str]] = [
        [
            name,
            *(_cell(*part.orders.get(name, _NONE)) for part in parts),
            Cell(over_all[name], bold=over_all[name] == TURNED),
        ]
        for name in names
    ]
    return Table(
        name="stability",
        title="Stability: verdicts with other seeds, and on another CPU",
        caption=_caption(parts, list(over_all.values())),
        blocks=[Block(columns, rows, 1, prose=frozenset({"over all"}))],
        notes=[
            "Each column is a study of its own: three seeds, each with its own base model, order "
            "of data and adapters. Differences in points; bold: p at most 0.05 after Holm.",
            "Orders of two methods: of mean accuracy over the tasks, corrected for the pairs.",
        ],
        data=pd.DataFrame(
            [
                {"order": name, "part": part.name, "said": said, "difference": value}
                | {"over_all": over_all[name]}
                for name in names
                for part in parts
                for said, value in [part.orders.get(name, _NONE)]
            ]
        ),
    )


_NONE: tuple[str, float | None] = ("not run", None)


def parts_of(collected: Collected) -> list[Part]:
    """A study's seeds, three by three, each judged alone."""
    rows = [row for row in collected.rows(SECTION) if row.status == "ok"]
    seeds = sorted({row.seed for row in rows})
    if len(seeds) < NUM_SEEDS:
        raise UserError(
            f"{len(seeds)} seeds with records in the {SECTION} section",
            where=str(collected.folder),
            allowed=f"{NUM_SEEDS} at least",
        )
    capabilities = sorted({str(row.cpu_capability) for row in rows})
    if len(capabilities) > 1:
        raise UserError(
            f"computed with different instructions of a CPU: {listed(capabilities)}",
            where=str(collected.folder),
            fix="give a study for each (`make stability` shows how)",
        )
    groups = [seeds[i : i + NUM_SEEDS] for i in range(0, len(seeds), NUM_SEEDS)]
    return [
        Part(f"{capabilities[0]}, {of[0]} to {of[-1]}", dict(_orders(_of_seeds(collected, of))))
        for of in groups
        if len(of) == NUM_SEEDS
    ]


def _of_seeds(collected: Collected, seeds: Sequence[int]) -> Collected:
    """The study as if it had only these seeds, and only trainings."""
    plan = collected.plan
    runs = {
        key: spec
        for key, spec in plan.runs.items()
        if isinstance(spec, TrainSpec) and spec.seed in seeds
    }
    kept = set(runs)
    sections = {SECTION: [run for run in plan.sections[SECTION] if run in kept]}
    rows = collected.runs[collected.runs["seed"].isin(list(seeds))]
    return Collected(
        collected.folder, plan.model_copy(update={"runs": runs, "sections": sections}), rows
    )


def _orders(part: Collected) -> Iterator[tuple[str, tuple[str, float | None]]]:
    for verdict in order_verdicts(part):
        if verdict.kind == ACCURACY and verdict.tested is not None:
            yield verdict.what, (verdict.verdict, 100 * verdict.tested.difference)
    yield from _pairs(part)


def _pairs(part: Collected) -> Iterator[tuple[str, tuple[str, float | None]]]:
    """Of each two trained methods of a model, which has the higher mean accuracy."""
    cells = accuracy_cells(part, SECTION)
    for model in part.models(SECTION):
        means = [find(cells, model=model, variant=v, task=AVERAGE) for v in variants(cells, model)]
        trained = [cell for cell in means if cell is not None and cell.method != "zero_shot"]
        pairs = list(combinations(trained, 2))
        found = [compared(part, behind(cells, a), behind(cells, b)) for a, b in pairs]
        known = [each if isinstance(each, Difference) else None for each in found]
        corrected = holm([each.p if each is not None else None for each in known])
        for (first, second), each, p in zip(pairs, known, corrected, strict=True):
            name = f"{method_title(first.method)} above {method_title(second.method)}"
            if each is None or p is None:
                yield name, (UNDECIDED, None)
            else:
                side = UNDECIDED if p > LEVEL else ABOVE if each.value > 0 else BELOW
                yield name, (side, 100 * each.value)


def _cell(said: str, value: float | None) -> Cell:
    if value is None:
        return Cell(EN_DASH)
    sign = "+" if value > 0 else ""
    return Cell(sign + decimals(value, 1), bold=said in _DECIDED)


def _over_all(said: Iterable[str]) -> str:
    each = list(said)
    decided = {one for one in each if one in _DECIDED}
    if len(decided) > 1:
        return TURNED
    if not decided:
        return NEVER
    return SAME if set(each) == decided else PARTLY


def _caption(parts: Sequence[Part], over_all: Sequence[str]) -> str:
    counts = [f"{over_all.count(name)} {name}" for name in (SAME, PARTLY, NEVER, TURNED)]
    return (
        f"What {len(parts)} studies, which differ in their seeds or in the instructions of their "
        f"CPU alone, say of {len(over_all)} orders of accuracy: {', '.join(counts)}."
    )
