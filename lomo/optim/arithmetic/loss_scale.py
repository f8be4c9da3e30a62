"""Loss scaling: keeps small gradients above the smallest number that float16 can hold."""

import math
from typing import Any, Literal

from ..guards.checks import require_positive

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
