"""torch_sgd: torch's SGD without momentum on the weights as they are, no master copy.

Not fused: torch 2.13's fused kernel leaves 16-bit weights unchanged on a CPU (pytorch 191763).
"""

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

    learning_rate: float = Field(0.03, gt=0, description="step size")
    implementation: Literal["loop", "foreach"] = Field(
        "loop", description="one tensor at a time, or all in one call"
    )


METHOD = Method(
    title="torch SGD", hyper=Hyper, honours=frozenset({"max_grad_norm", "weight_decay"})
)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """All parameters under SGD, in the precision that they have."""
    import torch

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=hyper.learning_rate,
        weight_decay=spec.weight_decay,
        foreach=hyper.implementation == "foreach",
    )
    return Prepared(model, [(optimizer, 0.0)])
