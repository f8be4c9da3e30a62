"""The backward pass that updates: each gradient is used and dropped before the next is made.

LOMO Algorithm 1: for each layer, from the last to the first, compute the gradient, update in place,
drop the gradient. `Lomo` and `AdaLomo` only say how one tensor is updated.
"""

import enum
import math
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.utils.hooks import RemovableHandle

from .checks import require_non_negative, require_positive, require_unique
from .state import ExactStateOptimizer
from .tensors import norm_fp32


class _Mode(enum.Enum):
    """What a hook does with the gradient that it was handed."""

    UPDATE = enum.auto()
    MEASURE = enum.auto()
    DROP = enum.auto()


class _Slot(NamedTuple):
    """Where a hooked parameter stands. Groups by index: load_state_dict replaces their dicts."""

    position: int
    group_index: int
    name: str


class FusedBackward(ExactStateOptimizer):
    """Base of optimizers whose update happens inside the backward pass.

    An ordinary loop trains: `loss.backward(); optimizer.step(); optimizer.zero_grad()`. Weights
    move in `backward`; `step` closes the step. `optimizer.backward(loss)` does the same, and is
    needed with `max_grad_norm`: one forward, two backwards, one host sync.

    Attributes:
        max_grad_norm: limit of the global L2 norm over all groups, or None (no clipping).
        grad_norm: global L2 norm before clipping at the last `backward(loss)` with clipping, else
            None. Not finite means that this step was skipped whole and no weight moved.
    """

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], max_grad_norm: float | None
    ) -> None:
        if max_grad_norm is not None:
            require_positive("max_grad_norm", max_grad_norm)
        self.max_grad_norm = max_grad_norm
        self.grad_norm: float | None = None
        self._handles: list[RemovableHandle] = []
        self._last_pass: list[int] = []  # by position: the pass in which its gradient came last
        self._norms: dict[torch.device, Tensor] = {}  # per device: fp32 norms by position
        self._mode: _Mode | None = None  # None outside of backward(loss)
        self._scale = 1.0
        self._pass = 0
        self._measured = False  # backward(loss) has measured the norm of this step
        self._step_is_open = False  # a gradient of this step has been used
        self._closed = False
        super().__init__(params, defaults)  # calls add_param_group

    @abstractmethod
    def _update(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], scale: float
    ) -> None:
        """Update one tensor in place from `scale * gradient`.

        Must not write to `gradient`: autograd may hand out a view of a gradient that is still on
        its way to another tensor (`x + position.unsqueeze(0)` with a batch of one does it).
        """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and hook its parameters; those with requires_grad False are left alone.

        Raises ValueError for a bad option, or a parameter that already holds a gradient.
        """
        super().add_param_group(param_group)
        group, group_index = self.param_groups[-1], len(self.param_groups) - 1
        try:
            require_unique(group["params"])
            require_positive("lr", group["lr"])
            require_non_negative("weight_decay", group["weight_decay"])
            if any(p.grad is not None for p in group["params"]):
                raise ValueError(
                    "a parameter already holds a gradient, which would be added to the first "
                    "step; set it to None before making the optimizer"
                )
        except ValueError:
            self.param_groups.pop()
            raise
        names = group.get("param_names") or [""] * len(group["params"])
        for parameter, name in zip(group["params"], names, strict=True):
            if parameter.requires_grad:
                slot = _Slot(len(self._last_pass), group_index, name)
                self._last_pass.append(-1)
                hook = _hook(weakref.ref(self), slot)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))

    def backward(self, loss: Tensor, *, others: Iterable[Tensor] = ()) -> None:
        """Run backward on the scalar `loss` and update every parameter that gets a gradient.

        `others` are parameters of other optimizers: of the two passes of clipping, only one may add
        to their gradients.

        With `max_grad_norm`: exact clipping by the global norm. The first backward, which keeps the
        graph, measures; the second scales by min(1, max_grad_norm / (norm + 1e-6)) and updates. A
        norm that is not finite skips the step.
        Raises RuntimeError for a second call before `step()` or a call after `close()`.
        """
        self._check_not_closed()
        if self._step_is_open:
            raise RuntimeError(_ACCUMULATION.format(what="backward(loss) was called again"))
        if self.max_grad_norm is None:
            self._run(loss, _Mode.UPDATE)
        else:
            with _gradients_kept(others):
                self._run(loss, _Mode.MEASURE, retain_graph=True)
            self.grad_norm, self._scale = self._read_norm(self.max_grad_norm)
            self._measured = True
            # After a bad norm the second pass still runs, without updates: it frees the graph,
            # which `loss` would otherwise hold through the next forward.
            self._run(loss, _Mode.UPDATE if math.isfinite(self.grad_norm) else _Mode.DROP)
        self._step_is_open = True

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> NoReturn: ...
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Close the step; the weights have moved in `backward` already.

        Raises ValueError for a closure, and RuntimeError where a gradient would be lost in silence:
        clipping without `backward(loss)`, a gradient that no hook has taken, after `close()`.
        """
        if closure is not None:
            raise ValueError("a closure is not supported: it may run backward more than once")
        self._check_not_closed()
        if self.max_grad_norm is not None and not self._measured:
            raise RuntimeError(_UNCLIPPED.format(limit=self.max_grad_norm))
        if any(p.grad is not None for group in self.param_groups for p in group["params"]):
            raise RuntimeError(
                "a parameter holds a gradient that no hook has taken: it was frozen when the "
                "optimizer was made, or its .grad was set by hand; such gradients are not applied"
            )
        self._pass += 1
        self._measured = self._step_is_open = False

    def close(self) -> None:
        """Remove all hooks, so that the model can be handed on; may be called twice.

        An optimizer that was dropped (garbage-collected) leaves the model alone as well.
        """
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._closed = True

    def _run(self, loss: Tensor, mode: _Mode, retain_graph: bool = False) -> None:
        self._mode, self._pass = mode, self._pass + 1
        try:
            torch.autograd.backward(loss, retain_graph=retain_graph)
        finally:
            self._mode = None

    @torch.no_grad()
    def _take_gradient(self, parameter: Tensor, slot: _Slot) -> None:
        """Use and drop the gradient of `parameter`: the body of its hook."""
        gradient = parameter.grad
        parameter.grad = None  # first of all, so that no error leaves a gradient behind
        assert gradient is not None
        if self._mode is None and self.max_grad_norm is not None:
            raise RuntimeError(_UNCLIPPED.format(limit=self.max_grad_norm))
        if self._last_pass[slot.position] == self._pass:
            what = f"parameter {slot.name or slot.position} got a second gradient"
            raise RuntimeError(_ACCUMULATION.format(what=what))
        self._last_pass[slot.position] = self._pass
        if self._mode is _Mode.MEASURE:
            self._record_norm(gradient, slot)
        elif self._mode is not _Mode.DROP:
            self._step_is_open = True
            self._update(parameter, gradient, self.param_groups[slot.group_index], self._scale)

    def _record_norm(self, gradient: Tensor, slot: _Slot) -> None:
        norms = self._norms.get(gradient.device)
        if norms is None:
            norms = torch.zeros(len(self._last_pass), device=gradient.device)
            self._norms[gradient.device] = norms
        norms[slot.position] = norm_fp32(gradient)

    @torch.no_grad()
    def _read_norm(self, max_norm: float) -> tuple[float, float]:
        """Global norm and clip coefficient, in the formula and order of clip_grad_norm_."""
        parts = list(self._norms.values()) or [torch.zeros(1)]
        self._norms = {}
        # A parameter lives on one device, so adding the devices' vectors merges them.
        norms = sum((part.to(parts[0].device) for part in parts[1:]), start=parts[0])
        norm = torch.linalg.vector_norm(norms)
        scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        norm_value, scale_value = torch.stack((norm, scale)).tolist()  # the one host sync
        return norm_value, scale_value

    def _check_not_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this optimizer was closed: its hooks are gone; make a new one")


@contextmanager
def _gradients_kept(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Whatever is added to the gradients of `parameters` inside is dropped again."""
    before = [(parameter, parameter.grad) for parameter in parameters]
    for parameter, _ in before:
        parameter.grad = None  # so that nothing is added in place to what is kept
    yield
    for parameter, gradient in before:
        parameter.grad = gradient


_ACCUMULATION = (
    "{what} before step(): the first gradient has been used and dropped, so it can't be "
    "accumulated. Call step() after each backward and use a larger batch instead; a parameter "
    "that is shared between reentrant checkpoints needs use_reentrant=False."
)
_UNCLIPPED = (
    "max_grad_norm={limit} needs optimizer.backward(loss) in each step: a plain loss.backward() "
    "can't clip by the global norm. No weight was changed."
)


def _hook(owner: "weakref.ref[FusedBackward]", slot: _Slot) -> Callable[[Tensor], None]:
    # Weak: a model must not keep its old optimizers alive and updating.
    def hook(parameter: Tensor) -> None:
        optimizer = owner()
        if optimizer is not None:
            optimizer._take_gradient(parameter, slot)

    return hook
