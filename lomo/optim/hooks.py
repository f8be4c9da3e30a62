"""What hooks hand over, and what is said where a gradient can't be used as asked."""

import enum
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Mode(enum.Enum):
    """What is done with a gradient that is handed over."""

    UPDATE = enum.auto()
    MEASURE = enum.auto()
    DROP = enum.auto()


class Slot(NamedTuple):
    """Where a hooked parameter stands. Groups by index: load_state_dict replaces their dicts."""

    position: int
    group_index: int
    name: str

    def __str__(self) -> str:
        return self.name or f"number {self.position}"


ACCUMULATION = (
    "{what} before step(): the first gradient has been used and dropped, so it can't be "
    "accumulated. Call step() after each backward and use a larger batch instead; a parameter "
    "that is shared between reentrant checkpoints needs use_reentrant=False."
)
FAILED = (
    "backward(loss) failed and may have moved a part of the weights: to go on, load the "
    "weights and this optimizer's state from a checkpoint."
)
PLAIN_BACKWARD = (
    "{asked} needs optimizer.backward(loss) in each step: a plain loss.backward() can't honour "
    "it. No weight was changed."
)
UNSCALED = (
    "float16 weights without a loss scale: small gradients become zero and their weights stay; "
    'give loss_scale="dynamic" and call optimizer.backward(loss), or use bfloat16'
)


def hook_of(owner: "weakref.ref[Any]", slot: Slot) -> Callable[[Tensor], None]:
    """The post-accumulate hook that hands a parameter's gradient to its optimizer.

    Weak: a model must not keep its old optimizers alive and updating.
    """

    def hook(parameter: Tensor) -> None:
        optimizer = owner()
        # torch calls it as well where a Function gives None, having used the gradient itself.
        if optimizer is not None and parameter.grad is not None:
            optimizer._take_gradient(parameter, slot)

    return hook
