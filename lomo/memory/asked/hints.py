"""Which switch more would let more fit: where it is asked, and what may be tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lomo.memory.asked.cells import Cell, Switches


@dataclass(frozen=True)
class Hint:
    """A cell in which one switch more lets `batch_size` sequences fit."""

    cell: Cell
    switch: str
    batch_size: int


def tight_cells(cells: Sequence[Cell]) -> list[Cell]:
    """One cell a model: on the fewest and smallest cards that hold it, by the best method.

    Of a model that fits nowhere, the cell that lacks least.
    """
    best: dict[str, Cell] = {}
    for cell in cells:
        if cell.refused is None:
            known = best.setdefault(cell.model, cell)
            best[cell.model] = max(known, cell, key=_nearness)  # of equals the first
    return list(best.values())


def _nearness(cell: Cell) -> tuple[bool, float, float, int]:
    if not cell.batch_size:
        return False, -cell.missing_bytes, 0, 0
    return True, -cell.num_gpus, -cell.gpu_gib, cell.batch_size


def more_switches(switches: Switches) -> list[tuple[str, Switches]]:
    """Each switch that may save memory and is not set, by its option."""
    found = []
    if switches.head_loss != "fused":
        found.append(("--head-loss fused", replace(switches, head_loss="fused")))
    if not switches.checkpointing:
        found.append(("--checkpointing", replace(switches, checkpointing=True)))
    if switches.attention == "eager":
        found.append(("--attention sdpa", replace(switches, attention="sdpa")))
    if switches.dtype == "float32":
        found.append(("--dtype bfloat16", replace(switches, dtype="bfloat16")))
    return found
