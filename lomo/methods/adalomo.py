"""adalomo: LOMO with factored second moments and grouped update normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.methods import FUSED, FUSED_NOTES, Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """The AdaLomo authors recommend 5e-4 or 1e-3, warm-up 0.03."""

    learning_rate: float = Field(5e-4, gt=0, description="peak")
    warmup_ratio: float = Field(0.03, ge=0, le=1, description="share of steps that warm up")


METHOD = Method(
    title="AdaLomo",
    hyper=Hyper,
    honours=FUSED,
    notes={**FUSED_NOTES, "weight_decay": "decoupled, times the learning rate and RMS(theta)"},
)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """All parameters under AdaLomo, in the precision that they have."""
    from lomo.optim import AdaLomo

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = AdaLomo(
        trainable,
        lr=hyper.learning_rate,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        loss_scale="dynamic" if spec.dtype == "float16" else None,
    )
    return Prepared(model, [(optimizer, hyper.warmup_ratio)])
