"""zero_shot: the base model as it is, scored without training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lomo.methods import Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """No hyper-parameters."""


METHOD = Method(title="Zero-shot", hyper=Hyper, honours=frozenset(), trains=False)


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """The model with nothing to train."""
    model.requires_grad_(False)
    return Prepared(spread(model), [])
