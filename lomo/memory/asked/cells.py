"""What is found of one model and method on so many cards, and what all that is found shares."""

from __future__ import annotations

from dataclasses import dataclass


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

    dtype: str = "bfloat16"
    attention: str | None = None
    head_loss: str = "model"
    checkpointing: bool = True
    max_grad_norm: float | None = None
    rank: int | None = None


DEFAULT = Switches()
