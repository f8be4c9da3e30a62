"""The table of what fits: the fewest cards for each model and method, and the largest batches."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from lomo.memory.asked.cells import Cell as Fit

from ..paper.fits import NAME, WhatFits, read_fits
from ..text.grid import Block, Table
from ..text.names import method_title
from ..text.render import write_table
from ..text.units import EN_DASH, GIB, decimals


def make_fits_table(results: Path) -> list[Path]:
    """Writes the table into the folder's `tables`; the paths."""
    return write_table(table_fits(read_fits(results)), results / "tables")


def table_fits(found: WhatFits) -> Table:
    """The fewest cards that do, and for each model the largest batch or what is missing."""
    refused = dict.fromkeys(
        f"Refused: {fit.model}, {method_title(fit.method)}, {fit.num_gpus} cards: {fit.refused}."
        for fit in found.cells.values()
        if fit.refused
    )
    formula = dict.fromkeys(
        f"{fit.model}: by a closed formula, since it can't be simulated."
        for fit in found.cells.values()
        if fit.account == "closed_form"
    )
    return Table(
        name=NAME,
        title="What fits",
        caption=(
            f"The largest batch of {found.sequence_length:,} tokens a sequence, in sequences a "
            "device: bfloat16, sdpa, checkpointed, one process on one card, FSDP2 on more. "
            f"Of a card's GiB, {found.reserve_gib:g} is kept for the CUDA context and workspaces. "
            "Steps were simulated, not run."
        ),
        blocks=[_fewest(found), *(_batches(found, model) for model in found.models)],
        notes=[
            "A negative number of GiB: so much is missing on each card for one sequence.",
            *formula,
            *refused,
        ],
        data=pd.DataFrame([asdict(fit) for fit in found.cells.values()]),
    )


def _fewest(found: WhatFits) -> Block:
    grid = [
        [model, method_title(method), *(_count(found, model, method, g) for g in found.gpus_gib)]
        for model in found.models
        for method in found.methods
    ]
    heads = [f"{gpu_gib:g} GiB" for gpu_gib in found.gpus_gib]
    heading = (
        f"The fewest cards that hold one sequence each (of {_list(found.counts)}; "
        f"{EN_DASH}: {found.counts[-1]} do not)"
    )
    return Block(["model", "method", *heads], grid, 2, heading)


def _count(found: WhatFits, model: str, method: str, gpu_gib: float) -> str:
    count = found.fewest_cards(model, method, gpu_gib)
    return EN_DASH if count is None else str(count)


def _batches(found: WhatFits, model: str) -> Block:
    grid = [
        [
            f"{gpu_gib:g}",
            str(count),
            *(_text(found.cells[model, method, count, gpu_gib]) for method in found.methods),
        ]
        for gpu_gib in found.gpus_gib
        for count in found.counts
    ]
    columns = ["GiB a card", "cards", *map(method_title, found.methods)]
    return Block(columns, grid, 2, f"{model}: the largest batch, or the GiB that are missing")


def _text(fit: Fit) -> str:
    if fit.refused:
        return "refused"
    if fit.batch_size:
        return str(fit.batch_size)
    tenths = math.ceil(10 * GIB.of(fit.missing_bytes))  # up: 0.0 would fit
    return f"{decimals(-tenths / 10, 1)} GiB"


def _list(counts: list[int]) -> str:
    return ", ".join(map(str, counts))
