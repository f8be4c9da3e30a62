"""torch_adamw: torch's AdamW on the weights as they are: state in their dtype, no master copy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lomo.methods import Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """The rate has no influence on memory and time."""

    learning_rate: float = Field(2e-5, gt=0, description="step size")
    implementation: Literal["loop", "foreach", "fused"] = Field(
        "loop", description="one tensor at a time, all in one call, or one kernel"
    )


METHOD = Method(
    title="torch AdamW", hyper=Hyper, honours=frozenset({"max_grad_norm", "weight_decay"})
)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """All parameters under AdamW, in the precision that they have."""
    import torch

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=hyper.learning_rate,
        weight_decay=spec.weight_decay,
        foreach=hyper.implementation == "foreach",
        fused=hyper.implementation == "fused",
    )
    return Prepared(model, [(optimizer, 0.0)])
