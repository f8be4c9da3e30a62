"""What hooks hand over, and what is said where a gradient can't be used as asked."""

import enum
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle


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
HOOKED_BY_OTHERS = (
    "this backward reaches a parameter of shape {shape} that this optimizer does not update, but a "
    "hook (of another fused optimizer?) does: with clipping in two passes or a loss scale it would "
    "get false gradients. Set its requires_grad to False in this backward (a GAN's other half), or "
    "give all parameters to one optimizer. No weight was changed."
)
NOT_REPRODUCED = (
    "the second backward pass made other gradients than the first, which was measured for "
    "clipping ({where}): the weights have been moved by them. Something in the model keeps no "
    "promise to give the same twice: a kernel that writes over its saved tensors (Liger's SwiGLU, "
    "Unsloth, in-place cross entropies), a checkpoint with preserve_rng_state=False, a mask from a "
    "counter, a hook that counts its calls. Leave it out, or take one pass: "
    'norm_scope="parameter", or no clipping. Then load weights and this optimizer\'s state from a '
    "checkpoint."
)
APPLIED = (
    "zero_grad() between backward and step(): the update has been applied in the backward, and "
    "can't be taken back. Call step() to close the step; to look at a loss or at gradients first "
    "(a rejected step, FGSM, a GAN's other half), set requires_grad to False in that backward or "
    "use torch.autograd.grad, which updates nothing."
)
NOTHING_TRAINED = (
    "step() was called, but no parameter of this optimizer got a gradient since the last one: no "
    "weight moved. The optimizer may hold parameters that the model no longer has (it was made "
    "before fully_shard, to_empty or load_state_dict(assign=True): make it afterwards), the loss "
    "may be another model's, all of them may be frozen, a hook of your own may have kept the "
    "gradients, or backward was not called."
)
COMPILED_FOR_ONE_PASS = (
    "torch.compile made this backward for one pass, and it gives away what it has saved: it was "
    "first run without clipping, maybe for another model of this process. Clip from the first "
    "backward on (torch._dynamo.reset() forgets what was compiled), set "
    "torch._functorch.config.donated_buffer = False before torch.compile, or take one pass "
    '(norm_scope="parameter"). No weight was changed.'
)
SCALED_BY_OTHERS = (
    "a torch.amp.GradScaler has scaled the loss: the update happens in backward, before a scaler "
    "could unscale, so the weights would move by the scale. Leave the scaler out and give this "
    'optimizer loss_scale="dynamic", or train in bfloat16, which needs no scale. (If the scaler is '
    "another optimizer's, call optimizer.backward(loss) here.)"
)
UNSCALED = (
    "float16 weights without a loss scale: small gradients become zero and their weights stay; "
    'give loss_scale="dynamic" and call optimizer.backward(loss), or use bfloat16'
)


class GradientHook:
    """The post-accumulate hook that hands a parameter's gradient to its optimizer.

    Weak: a model must not keep its old optimizers alive and updating. It runs after all hooks of
    others, which may change the gradient, whenever those were registered.
    """

    def __init__(self, owner: "weakref.ref[Any]", slot: Slot) -> None:
        self._owner = owner
        self._slot = slot

    def __call__(self, parameter: Tensor) -> None:
        optimizer = self._owner()
        # torch calls it as well where a Function gives None, having used the gradient itself.
        if optimizer is None or parameter.grad is None:
            return
        if self._is_last(parameter):
            optimizer._take_gradient(parameter, self._slot)
        else:  # this once the gradient stays until the end of the backward pass
            engine: Any = torch.autograd.Variable._execution_engine
            engine.queue_callback(lambda: self._take_last(parameter))

    def _is_last(self, parameter: Tensor) -> bool:
        for hook in reversed(_hooks(parameter).values()):
            if hook is self:
                break
            if _is_of_others(hook):
                return False
        return True

    def _take_last(self, parameter: Tensor) -> None:
        """Go to the end for the passes to come, and do what was put off."""
        hooks = _hooks(parameter)
        # torch calls them in the order of the plain dict, which move_to_end does not change.
        for key in [key for key, hook in hooks.items() if hook is self]:
            hooks[key] = hooks.pop(key)
        self(parameter)


def has_hooks_of_others(parameter: Tensor) -> bool:
    """Whether somebody else wants to see the gradient of `parameter`, or to change it."""
    return bool(parameter._backward_hooks) or any(map(_is_of_others, _hooks(parameter).values()))


def has_using_hooks(parameter: Tensor) -> bool:
    """Whether a hook, one of a fused optimizer perhaps, takes the gradient once it is summed."""
    return any(not getattr(hook, "observes", False) for hook in _hooks(parameter).values())


def observing(hook: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """`hook`, as one that neither needs nor changes a gradient: it stays where it is, unminded."""
    hook.observes = True  # type: ignore[attr-defined]
    return hook


def _is_of_others(hook: Any) -> bool:
    return not isinstance(hook, GradientHook) and not getattr(hook, "observes", False)


def remove_all(handles: list[RemovableHandle]) -> None:
    """Remove the hooks of an optimizer that is closed, or that was dropped."""
    for handle in handles:
        handle.remove()
    handles.clear()


def _hooks(parameter: Tensor) -> dict[int, Any]:
    hooks: dict[int, Any] | None = parameter._post_accumulate_grad_hooks
    return {} if hooks is None else hooks
