"""sgd: torch's SGD without momentum, the paper's first baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.methods import ORDINARY, ORDINARY_NOTES, Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """The paper names no learning rate for SGD; LOMO's is the same update."""

    learning_rate: float = Field(0.03, gt=0, description="peak")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="share of steps that warm up")


METHOD = Method(title="SGD", hyper=Hyper, honours=ORDINARY, notes=ORDINARY_NOTES)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """All parameters under SGD; 16-bit ones with a master copy in fp32 (2 + 2 + 4 bytes)."""
    import torch

    from lomo.methods.precision import with_master_copy

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    optimizer = with_master_copy(
        torch.optim.SGD,
        model.parameters(),
        lr=hyper.learning_rate,
        weight_decay=spec.weight_decay,
    )
    return Prepared(model, [(optimizer, hyper.warmup_ratio)])
