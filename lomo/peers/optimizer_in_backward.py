"""optimizer_in_backward: PyTorch's own recipe, one torch SGD a parameter, stepped in its hook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.methods import Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """The rate has no influence on memory and time."""

    learning_rate: float = Field(0.03, gt=0, description="step size")


METHOD = Method(
    title="PyTorch's optimizer in backward", hyper=Hyper, honours=frozenset({"weight_decay"})
)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """Each parameter under an SGD of its own; nothing is left to do after the backward pass."""
    import torch

    from lomo.peers.no_update import NoUpdate

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizers = {
        parameter: torch.optim.SGD(
            [parameter], lr=hyper.learning_rate, weight_decay=spec.weight_decay, foreach=False
        )
        for parameter in trainable
    }

    def step(parameter: Tensor) -> None:
        optimizers[parameter].step()  # type: ignore[index]
        optimizers[parameter].zero_grad()  # type: ignore[index]

    for parameter in trainable:
        parameter.register_post_accumulate_grad_hook(step)
    return Prepared(model, [(NoUpdate(trainable), 0.0)])
