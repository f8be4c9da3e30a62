"""lomo: SGD fused into the backward pass (the paper's Algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from lomo.methods import FUSED, FUSED_NOTES, Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """The paper's Table 4 tries learning rates 5e-2 and 3e-2, warm-up 0.05, 0.1 and 0.2."""

    learning_rate: float = Field(0.03, gt=0, description="peak")
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="share of steps that warm up")
    rounding: Literal["nearest", "stochastic"] = Field(
        "nearest", description="of 16-bit weights after the update"
    )
    norm_scope: Literal["global", "parameter", "previous_step"] = Field(
        "global", description="the norm that max_grad_norm limits; only global is exact"
    )
    update: Literal["hook", "gemm"] = Field(
        "hook", description="where: when a gradient is there, or inside the product that forms it"
    )

    @model_validator(mode="after")
    def _go_together(self) -> Hyper:
        if (self.update, self.rounding) == ("gemm", "stochastic"):
            raise ValueError("rounding: stochastic needs update: hook, a product rounds to nearest")
        return self


METHOD = Method(
    title="LOMO",
    hyper=Hyper,
    honours=FUSED | {"norm_scope", "rounding", "update"},
    notes={
        **FUSED_NOTES,
        "norm_scope": "by each tensor's own norm, or by the global norm of the step before",
        "rounding": "random, and right on average; nearest rounding is not",
    },
)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """All parameters under LOMO, in the precision that they have."""
    from lomo.optim import Lomo, update_in_gemm

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Lomo(
        trainable,
        lr=hyper.learning_rate,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        norm_scope=hyper.norm_scope,
        rounding=hyper.rounding,
        loss_scale="dynamic" if spec.dtype == "float16" else None,
    )
    if hyper.update == "gemm":
        update_in_gemm(optimizer, model)
    return Prepared(model, [(optimizer, hyper.warmup_ratio)])
