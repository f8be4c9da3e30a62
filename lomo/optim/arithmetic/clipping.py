"""Clipping by a norm: whose norm, how it is gathered, and the coefficient that it gives."""

from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ..guards.checks import require_limit

NormScope = Literal["global", "parameter", "previous_step"]
"""global: the norm over all gradients, exact, by two passes.
parameter: each gradient by its own norm, one pass (grouped clipping; AdaLomo's authors: enough).
previous_step: the global norm of the step before, one pass; an approximation."""


class GradientNorms:
    """Norms of the gradients of one pass, kept on their devices until they are read at once."""

    def __init__(self) -> None:
        # By device, dtype and the ranks that hold the other parts: norms by position.
        self._norms: dict[tuple[torch.device, torch.dtype, ProcessGroup | None], Tensor] = {}

    def __bool__(self) -> bool:
        return bool(self._norms)

    def record(
        self,
        position: int,
        num_positions: int,
        norm: Tensor,
        group: ProcessGroup | None = None,
    ) -> None:
        """Note the norm (fp32 or fp64, 0-dim) of the gradient of the parameter at `position`.

        With a `group` it is the norm of this rank's part, and the ranks add up at `read`.
        """
        key = (norm.device, norm.dtype, group)
        if key not in self._norms:
            self._norms[key] = torch.zeros(num_positions, dtype=norm.dtype, device=norm.device)
        self._norms[key][position] = norm

    def clear(self) -> None:
        """Forget what an interrupted pass has left."""
        self._norms = {}

    def read(self) -> float:
        """Norm of all gradients together, as clip_grad_norm_ adds it up. The one host sync.

        Every rank gets the same number, so that all take the same decision.
        """
        parts = [_whole(norms, group) for (_, _, group), norms in self._norms.items()]
        self._norms = {}
        # A parameter stands in one of the vectors only, so adding them merges them.
        parts = parts or [torch.zeros(1, dtype=torch.float32)]
        norms = sum((part.to(parts[0].device) for part in parts[1:]), start=parts[0])
        return float(torch.linalg.vector_norm(norms))


def _whole(norms: Tensor, group: ProcessGroup | None) -> Tensor:
    if group is None:
        return norms
    squares = norms.square()
    dist.all_reduce(squares, group=group)
    return squares.sqrt_()


def require_scope(scope: str, max_grad_norm: float | None) -> None:
    """Raise ValueError for an unknown scope, a bad limit, or a scope without a limit."""
    if max_grad_norm is not None:
        require_limit("max_grad_norm", max_grad_norm)
    allowed = get_args(NormScope)
    if scope not in allowed:
        raise ValueError(f"norm_scope must be one of {', '.join(allowed)}, got {scope!r}")
    if scope != "global" and max_grad_norm is None:
        raise ValueError(f"norm_scope={scope!r} needs max_grad_norm, the limit of that norm")


def clip_coefficient(norm: Tensor, limit: float) -> Tensor:
    """min(1, limit / (norm + 1e-6)), in the formula and the precision of clip_grad_norm_."""
    return torch.clamp(limit / (norm + 1e-6), max=1.0)
