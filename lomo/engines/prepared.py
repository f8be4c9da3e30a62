"""What a method hands to an engine: a model that is ready to train, and its optimizers.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

# Distributes the parameters of an adapted model over the devices: Engine.spread.
Spread = Callable[["nn.Module"], "nn.Module"]


@dataclass
class Prepared:
    """A model ready to train, and its optimizers, each with the share of steps that warm it up.

    Each trainable parameter belongs to exactly one of the optimizers.
    """

    model: nn.Module
    optimizers: list[tuple[Optimizer, float]]

    def __post_init__(self) -> None:
        """Raises ValueError for a parameter in two optimizers, or trainable and in none."""
        held = [
            id(parameter)
            for optimizer, _ in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        if len(set(held)) != len(held):
            raise ValueError("a parameter is in two optimizers; each may be in one")
        named = self.model.named_parameters()
        lacking = [name for name, p in named if p.requires_grad and id(p) not in set(held)]
        if lacking:
            raise ValueError(f"trainable and in no optimizer: {', '.join(lacking[:3])}")
