"""gradients_kept: forward and backward, all gradients alive until the end, no update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lomo.methods import Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """No hyper-parameters."""


METHOD = Method(title="no update, gradients kept", hyper=Hyper, honours=frozenset())


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """The model as it is."""
    from lomo.peers.no_update import NoUpdate

    model = spread(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return Prepared(model, [(NoUpdate(trainable), 0.0)])
