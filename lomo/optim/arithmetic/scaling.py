"""What a gradient is multiplied by.

Clipping's coefficient: by whose norm, and how that is gathered. And the loss scale, which keeps
small gradients above the smallest number that float16 can hold.
"""

import math
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from ..guards.checks import require_limit, require_positive

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


# 65536, where torch's GradScaler starts, is already infinite in float16, which the gradient of a
# float16 loss is. The released package starts at 2^32 and skips 17 steps before its first update.
START = 2.0**15
LARGEST = 2.0**24
SMALLEST = 1.0
GROWTH_INTERVAL = 2000


class LossScale:
    """The factor on the loss; it halves after a bad step and doubles after 2000 good ones.

    Powers of two, so that scaling and unscaling are exact. A number instead of "dynamic" stays.
    Every rank of a run sees the same global norm and so takes the same decision; no process group
    is needed.

    Args:
        scale: "dynamic", or a fixed factor above 0.

    Raises ValueError for anything else.
    """

    def __init__(self, scale: float | Literal["dynamic"]) -> None:
        if scale != "dynamic":
            require_positive("loss_scale", scale)
        self.dynamic = scale == "dynamic"
        self.value = START if scale == "dynamic" else float(scale)
        self.num_good_steps = 0  # since the last change

    def update(self, norm: float) -> None:
        """Take note of a step whose gradients had this norm; not finite means a bad step."""
        if not self.dynamic:
            return
        if not math.isfinite(norm):
            self.value, self.num_good_steps = max(SMALLEST, self.value / 2.0), 0
            return
        self.num_good_steps += 1
        if self.num_good_steps == GROWTH_INTERVAL:
            self.value, self.num_good_steps = min(LARGEST, self.value * 2.0), 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"value": self.value, "num_good_steps": self.num_good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of another; a fixed scale keeps its own value."""
        if self.dynamic:
            self.value, self.num_good_steps = state["value"], state["num_good_steps"]
