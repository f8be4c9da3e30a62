"""floor: forward and backward, each gradient dropped as soon as it is there.

No optimizer that forms the gradients one by one can take less memory or time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lomo.methods import Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """No hyper-parameters."""


METHOD = Method(title="no update, gradients dropped", hyper=Hyper, honours=frozenset())


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """The model with a hook on each parameter that drops its gradient."""
    from lomo.peers.no_update import NoUpdate

    model = spread(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.register_post_accumulate_grad_hook(_drop)
    return Prepared(model, [(NoUpdate(trainable), 0.0)])


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
