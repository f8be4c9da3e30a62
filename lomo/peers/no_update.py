"""An optimizer that leaves the weights as they are, for what is measured without an update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer


class NoUpdate(Optimizer):
    """Holds the parameters and changes none; `zero_grad` drops what gradients they have."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__(list(params), {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Does nothing."""
