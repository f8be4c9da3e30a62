"""What is found of one model and method on so many cards, what all that is found shares, and which
switch more would let more fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lomo.specs import Attention, Dtype, HeadLoss, MeasureSpec


@dataclass(frozen=True)
class Cell:
    """One model and method on `num_gpus` cards of a size: what fits, or why nothing does.

    batch_size: sequences a device, 0 where not even one fits. peak_bytes: predicted at that batch,
    or at 1 where none fits; missing_bytes: of it beyond the card, then. account: how it was
    predicted. refused: why the engine or the method can't run it.
    """

    model: str
    method: str
    num_gpus: int
    gpu_gib: float
    batch_size: int
    peak_bytes: int
    missing_bytes: int
    account: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Switches:
    """What all cells share beside method and cards; attention None: what each model has."""

    dtype: Dtype = "bfloat16"
    attention: Attention | None = None
    head_loss: HeadLoss = "model"
    checkpointing: bool = True
    max_grad_norm: float | None = None
    rank: int | None = None

    def spec(
        self, command: str, *, model: str, method: str, hyper: Mapping[str, Any], **sizes: Any
    ) -> MeasureSpec:
        """A step that a command asks for, as a run would be told it.

        sizes: batch_size, sequence_length, engine, num_devices.
        """
        return MeasureSpec(
            study=command,
            run_id=command,
            model=model,
            model_path=model,
            method=method,
            hyper=dict(hyper),
            device="auto",
            dtype=self.dtype,
            attention=self.attention or "sdpa",
            activation_checkpointing=self.checkpointing,
            head_loss=self.head_loss,
            max_grad_norm=self.max_grad_norm,
            timeout_s=None,
            num_threads=1,
            num_warmup_steps=1,
            num_timed_steps=2,
            **sizes,
        )


DEFAULT = Switches()


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
