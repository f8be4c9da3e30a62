"""Clipping by a norm: whose norm, how it is gathered, and the coefficient that it gives."""

from typing import Literal, get_args

import torch
from torch import Tensor

from .checks import require_positive

NormScope = Literal["global", "parameter", "previous_step"]
"""global: the norm over all gradients, exact, by two passes.
parameter: each gradient by its own norm, one pass (grouped clipping; AdaLomo's authors: enough).
previous_step: the global norm of the step before, one pass; an approximation."""


class GradientNorms:
    """Norms of the gradients of one pass, kept on their devices until they are read at once."""

    def __init__(self) -> None:
        self._norms: dict[torch.device, Tensor] = {}  # per device: fp32 norms by position

    def __bool__(self) -> bool:
        return bool(self._norms)

    def record(self, position: int, num_positions: int, norm: Tensor) -> None:
        """Note the norm (fp32, 0-dim) of the gradient of the parameter at `position`."""
        if norm.device not in self._norms:
            self._norms[norm.device] = torch.zeros(num_positions, device=norm.device)
        self._norms[norm.device][position] = norm

    def clear(self) -> None:
        """Forget what an interrupted pass has left."""
        self._norms = {}

    def read(self) -> float:
        """Norm of all gradients together, as clip_grad_norm_ adds it up. The one host sync."""
        parts = list(self._norms.values()) or [torch.zeros(1)]
        self._norms = {}
        # A parameter lives on one device, so adding the devices' vectors merges them.
        norms = sum((part.to(parts[0].device) for part in parts[1:]), start=parts[0])
        return float(torch.linalg.vector_norm(norms))


def require_scope(scope: str, max_grad_norm: float | None) -> None:
    """Raise ValueError for an unknown scope, a bad limit, or a scope without a limit."""
    if max_grad_norm is not None:
        require_positive("max_grad_norm", max_grad_norm)
    allowed = get_args(NormScope)
    if scope not in allowed:
        raise ValueError(f"norm_scope must be one of {', '.join(allowed)}, got {scope!r}")
    if scope != "global" and max_grad_norm is None:
        raise ValueError(f"norm_scope={scope!r} needs max_grad_norm, the limit of that norm")


def clip_coefficient(norm: Tensor, limit: float) -> Tensor:
    """min(1, limit / (norm + 1e-6)), in the formula and the precision of clip_grad_norm_."""
    return torch.clamp(limit / (norm + 1e-6), max=1.0)
