"""lomo_optim: the LOMO authors' package 0.1.1, driven as their trainer drives it, repaired nowhere.

With a norm to clip by, that is: a backward for the norm, a second forward of the same batch while
output and graph of the first are still held, and a backward that updates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lomo.methods import Method, Prepared, Spread
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from torch import nn

    from lomo.specs import RunSpec


class Hyper(Strict):
    """The rate has no influence on memory and time."""

    learning_rate: float = Field(0.03, gt=0, description="step size")


METHOD = Method(title="lomo-optim 0.1.1", hyper=Hyper, honours=frozenset({"max_grad_norm"}))


def prepare(model: nn.Module, spec: RunSpec, spread: Spread) -> Prepared:
    """All parameters under the package's Lomo."""
    from lomo.peers.lomo_optim_trainer import LomoOptim

    hyper = Hyper.model_validate(spec.hyper)
    model = spread(model)
    optimizer = LomoOptim(model, lr=hyper.learning_rate, max_grad_norm=spec.max_grad_norm)
    return Prepared(model, [(optimizer, 0.0)])
