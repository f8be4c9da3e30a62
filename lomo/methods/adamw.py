"""adamw: torch's AdamW on all parameters, the standard that the paper compares with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.methods import ORDINARY, ORDINARY_NOTES, Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """The paper has no AdamW accuracy row, so no setting to copy: a common one stands here."""

    learning_rate: float = Field(2e-5, gt=0, description="peak")
    warmup_ratio: float = Field(0.05, ge=0, le=1, description="share of steps that warm up")


METHOD = Method(title="AdamW", hyper=Hyper, honours=ORDINARY, notes=ORDINARY_NOTES)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """All parameters under AdamW; 16-bit ones with a master copy in fp32 (2 + 2 + 12 bytes)."""
    import torch

    from lomo.methods.precision import with_master_copy

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    optimizer = with_master_copy(
        torch.optim.AdamW,
        model.parameters(),
        lr=hyper.learning_rate,
        weight_decay=spec.weight_decay,
    )
    return Prepared(model, [(optimizer, hyper.warmup_ratio)])
