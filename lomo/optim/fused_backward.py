"""The backward pass that updates: each gradient is used and dropped before the next is made.

LOMO Algorithm 1: for each layer, from the last to the first, compute the gradient, update in place,
drop the gradient. `Lomo` and `AdaLomo` only say how one tensor is updated.
"""

import math
import warnings
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT
from torch.utils.hooks import RemovableHandle

from .arithmetic.rounding import Rounding
from .arithmetic.scaling import NormScope
from .arithmetic.tensors import gradient_norm
from .guards.bystanders import (
    Bystanders,
    gradients_divided,
    gradients_kept,
    told_if_compiled_for_one_pass,
    warn_if_compiled_as_a_whole,
    warn_if_named_as_compiled,
)
from .guards.checks import require_group_options, require_non_negative, require_real, require_unique
from .guards.ownership import (
    claim,
    named,
    release,
    require_free,
    require_own_memory,
    require_same_members,
)
from .guards.second_pass import SecondPass
from .guards.training_loops import (
    asked_by_scaler,
    refuse_late_clipping,
    refuse_what_lightning_asks,
    require_unscaled,
    roots_of_running_backward,
)
from .hooks import (
    ACCUMULATION,
    APPLIED,
    FAILED,
    NOTHING_TRAINED,
    PLAIN_BACKWARD,
    SCALED_BY_OTHERS,
    UNSCALED,
    GradientHook,
    Mode,
    Slot,
    remove_all,
)
from .options import OptimizerOptions
from .sharding import (
    Shard,
    release_gathered,
    require_known_spread,
    require_unwrapped,
    shard_of,
    why_not_taken,
)


class FusedBackward(OptimizerOptions):
    """Base of optimizers whose update happens inside the backward pass.

    An ordinary loop trains: `loss.backward(); optimizer.step(); optimizer.zero_grad()`. Weights
    move in `backward`; `step` closes the step. `optimizer.backward(loss)` does the same, and is
    needed for what a plain backward can't give: clipping by a global norm, and a loss scale.

    Args:
        max_grad_norm: limit of the L2 norm of the gradients; inf measures only; None: no clipping.
        norm_scope: "global" (over all groups, exact: one forward, two backwards, one host sync),
            "parameter" (each gradient by its own norm, one pass) or "previous_step" (the global
            norm of the step before, one pass: an approximation; exact where there is none yet).
        loss_scale: None, a fixed factor or "dynamic", for float16; see `LossScale`.
        rounding: of 16-bit weights, "nearest" or "stochastic" (unbiased: steps below half a unit in
            the last place are not lost).
        seed: of the stochastic rounding; a resumed run draws what the uninterrupted one draws.

    Attributes:
        grad_norm: global L2 norm before clipping of the last step that measured it, else None. Not
            finite means a bad step. With the global scope it was skipped whole and no weight
            moved; else the tensors whose gradients were not finite were skipped.
    """

    # Whether an element's update needs nothing of the others, so that any part will do.
    _elementwise = True
    _check_strategy = refuse_what_lightning_asks
    _check_clipping_by_others = refuse_late_clipping

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        max_grad_norm: float | None = None,
        norm_scope: NormScope = "global",
        loss_scale: float | Literal["dynamic"] | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        self._set_options(
            max_grad_norm=max_grad_norm,
            norm_scope=norm_scope,
            loss_scale=loss_scale,
            rounding=rounding,
            seed=seed,
        )
        self.grad_norm = None
        self._handles: list[RemovableHandle] = []
        # A dropped optimizer takes its hooks along: a thousand dead ones slow down each backward.
        weakref.finalize(self, remove_all, self._handles).atexit = False
        self._undo: list[Callable[[], None]] = []  # what else `close` takes back
        self._slots: dict[Tensor, Slot] = {}
        self._members: list[list[int]] = []  # ids of each group's parameters, as it was added
        self._last_pass: list[int] = []  # by position: the pass in which its gradient came last
        self._bystanders = Bystanders()
        self._mode: Mode | None = None  # None outside of backward(loss)
        self._pass = 0
        self._num_steps = 0
        self._part = 0  # of the parameter that is updated: which part of it this rank holds
        self._backward_called = False  # backward(loss) has run in this step
        self._step_is_open = False  # a gradient of this step has been used
        self._dropped = False  # ... or dropped, by a norm that was not finite
        self._got_gradient = False  # some hook was called in this step
        self._told_of_nothing = self._scalers_seen = False
        self._failed = False  # backward(loss) has raised when some weights may have moved
        self._closed = False
        self._graph_checked = self._spread_known = False
        # Of a group in a loaded state. torch adds names of its own to the defaults later.
        self._needed = {name for name, value in defaults.items() if value is not None}
        super().__init__(params, defaults)  # calls add_param_group

    @abstractmethod
    def _update(
        self, parameter: Tensor, gradient: Tensor, slot: Slot, scale: float | Tensor
    ) -> None:
        """Update one tensor in place from `scale * gradient`.

        A tensor for a scale is 0-dim, fp32, on the device, and 0 where the gradient is not finite:
        the parameter must then stay as it is. Must not write to `gradient`: autograd may hand out
        a view of a gradient that is still on its way to another tensor
        (`x + position.unsqueeze(0)` with a batch of one does it).
        """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and hook its parameters; those with requires_grad False are left alone.

        Raises ValueError for a bad option, a parameter that already holds a gradient, or one that
        another optimizer of this kind updates. Warns of float16 without a loss scale.
        """
        require_group_options(param_group)
        super().add_param_group(param_group)
        group, group_index = self.param_groups[-1], len(self.param_groups) - 1
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        try:
            require_unique(group["params"])
            require_non_negative("lr", group["lr"])
            require_non_negative("weight_decay", group["weight_decay"])
            require_real(trained)
            require_free(group["params"])
            require_own_memory(named(self.param_groups))
            require_unwrapped(group["params"])
            self._check_group(group)
        except ValueError:
            self.param_groups.pop()
            raise
        if self.loss_scale is None and any(p.dtype == torch.float16 for p in trained):
            warnings.warn(UNSCALED, UserWarning, stacklevel=4)
        names = group.get("param_names") or [""] * len(group["params"])
        warn_if_named_as_compiled(names)
        self._members.append([id(parameter) for parameter in group["params"]])
        for parameter, name in zip(group["params"], names, strict=True):
            if parameter.requires_grad:
                self._hook(parameter, Slot(len(self._last_pass), group_index, name))

    def _hook(self, parameter: Tensor, slot: Slot) -> None:
        self._slots[parameter] = slot
        self._last_pass.append(-1)
        hook = GradientHook(weakref.ref(self), slot)
        self._handles.append(parameter.register_post_accumulate_grad_hook(hook))
        claim(parameter, weakref.ref(self))

    def backward(self, loss: Tensor, *, others: Iterable[Tensor] = ()) -> None:
        """Run backward on the scalar `loss` and update every parameter that gets a gradient.

        Gradients of what the loss reaches beside them (parameters of other optimizers, inputs,
        tensors with `retain_grad()`) are what a plain backward would add, neither doubled by two
        passes nor scaled. They are found in the graph; `others` names what can't be found there.

        Exact clipping by the global norm: the first backward, which keeps the graph, measures; the
        second scales by min(1, max_grad_norm / (norm + 1e-6)) and updates. A norm that is not
        finite skips the step. The second must make what the first has measured, by samples of each
        gradient: RuntimeError, with the weights moved, where it does not.
        Raises RuntimeError for a second call before `step()`, a call after `close()`, or one after
        a backward that failed half-way; `load_state_dict` makes a fresh start.
        """
        self._check_not_closed()
        self._check_not_failed()
        if self._step_is_open:
            raise RuntimeError(ACCUMULATION.format(what="backward(loss) was called again"))
        if not self._scalers_seen:
            self._scalers_seen = require_unscaled([loss])
        if not self._graph_checked:
            warn_if_compiled_as_a_whole(loss, self._slots)
            self._graph_checked = True
        self._norms.clear()
        self._dropped = False
        with torch.enable_grad():  # a backward may stand in a no_grad block
            scaled = loss if self.loss_scale is None else loss.float() * self.loss_scale.value
        if self._measures_first():
            self._run_twice(scaled, self._bystanders.of(loss, self._slots, others))
        else:
            factor = self._loss_factor
            beside = self._bystanders.of(loss, self._slots, others) if factor != 1.0 else ()
            with gradients_divided(beside, factor):
                self._run(scaled, Mode.UPDATE)
            if self._norms:
                self._read_norm()
        self._backward_called = self._step_is_open = True
        if self.loss_scale is not None:
            self.loss_scale.update(math.nan if self.grad_norm is None else self.grad_norm)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Close the step; the weights have moved in `backward` already.

        A `closure` is run once, with gradients enabled, and its value is given, as by torch's SGD.
        Raises RuntimeError where a gradient would be lost in silence: clipping without
        `backward(loss)`, one that no hook has taken, after `close()`. Warns once where none came.
        """
        self._check_not_closed()
        self._check_not_failed()
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
            self._check_not_failed()
        # A closure that ran backward plainly has raised; one that ran none leaves all as it is.
        elif self._asks_for() and not self._backward_called:
            raise RuntimeError(PLAIN_BACKWARD.format(asked=self._asks_for()))
        for parameter in (p for group in self.param_groups for p in group["params"]):
            if parameter.grad is not None:
                slot = self._slots.get(parameter)
                taken = slot is not None and self._last_pass[slot.position] == self._pass
                raise RuntimeError(why_not_taken(parameter, taken))
        if self._norms:  # a plain backward with norm_scope="parameter"
            self._read_norm()
        release_gathered(self._slots)
        if not self._got_gradient and not self._told_of_nothing:
            self._told_of_nothing = True
            warnings.warn(NOTHING_TRAINED, UserWarning, stacklevel=3)
        self._pass += 1
        self._num_steps += 1
        self._backward_called = self._step_is_open = self._got_gradient = False
        return value

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop gradients that no hook has taken, as torch does; a skipped step is closed.

        Raises RuntimeError between a backward that has updated and `step()`.
        """
        if self._step_is_open and self._got_gradient and not self._dropped and not self._closed:
            raise RuntimeError(APPLIED)
        self._backward_called = self._step_is_open = False
        super().zero_grad(set_to_none)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        # What GradScaler.step asks first, before it misses the gradients.
        if asked_by_scaler():
            raise RuntimeError(SCALED_BY_OTHERS)
        return False

    def _restore(self, saved: dict[str, Any]) -> None:
        super()._restore(saved)
        self._norms.clear()
        self._pass += 1
        self._backward_called = self._step_is_open = self._failed = False
        self._dropped = self._got_gradient = False

    def close(self) -> None:
        """Remove all hooks, so that the model can be handed on; may be called twice.

        An optimizer that was dropped (garbage-collected) leaves the model alone as well.
        """
        remove_all(self._handles)
        while self._undo:
            self._undo.pop()()
        release(self._slots)
        self._closed = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            f"a {type(self).__name__} can't be copied or pickled: its hooks belong to the "
            "parameters that it was given; keep state_dict() and load it into a new one"
        )

    def _run_twice(self, loss: Tensor, beside: list[Tensor]) -> None:
        """Measure, then update or, after a norm that is not finite, drop."""
        check = self._check = SecondPass(self._num_steps)
        try:
            with gradients_kept(beside), told_if_compiled_for_one_pass():
                self._run(loss, Mode.MEASURE, retain_graph=True)
            self._read_norm()
            norm = self.grad_norm
            assert norm is not None
            # After a bad norm the second pass still runs, without updates: it frees the graph,
            # which `loss` would otherwise hold through the next forward.
            self._dropped = not math.isfinite(norm)
            mode = Mode.DROP if self._dropped else Mode.UPDATE
            with gradients_divided(beside, self._loss_factor):
                self._run(loss, mode)
        finally:
            self._check = None
        if mode is Mode.UPDATE:
            self._failed = True  # until it is known to be right
            check.require_reproduced(norm * self._loss_factor, self._slots.values())
            self._failed = False

    def _run(self, loss: Tensor, mode: Mode, retain_graph: bool = False) -> None:
        self._mode, self._pass = mode, self._pass + 1
        try:
            torch.autograd.backward(loss, retain_graph=retain_graph)
        except BaseException:
            self._failed = self._step_is_open
            raise
        finally:
            self._mode = None

    @torch.no_grad()
    def _take_gradient(self, parameter: Tensor, slot: Slot) -> None:
        """Use and drop the gradient of `parameter`: the body of its hook."""
        gradient = parameter.grad
        parameter.grad = None  # first of all, so that no error leaves a gradient behind
        assert gradient is not None
        mode = self._admit(slot)
        if mode is Mode.DROP:
            return
        self._note(mode, slot, gradient)
        elementwise = self._elementwise or mode is Mode.MEASURE
        shard = shard_of(parameter, gradient, elementwise=elementwise)
        del gradient  # of ZeRO-3 it is the whole, and no longer needed
        if mode is Mode.MEASURE:
            self._record_norm(slot, gradient_norm(shard.gradient), shard.group)
            return
        scale = self._coefficient(slot, shard.norm)
        if scale is not None:
            self._part = shard.index
            self._update_shard(shard, slot, scale)
            shard.write_back()

    def _update_shard(self, shard: Shard, slot: Slot, scale: float | Tensor) -> None:
        """Update this rank's part; overridden where an update needs more than its own elements."""
        self._update(shard.parameter, shard.gradient, slot, scale)

    def _admit(self, slot: Slot) -> Mode:
        """What is to be done with the gradient of a parameter, which may come once a pass."""
        asked = self._asks_for()
        if self._mode is None and asked:
            raise RuntimeError(PLAIN_BACKWARD.format(asked=asked))
        if not self._got_gradient:
            require_same_members(self.param_groups, self._members)
        if self._mode is None and not self._step_is_open and not self._scalers_seen:
            self._scalers_seen = require_unscaled(roots_of_running_backward())
        if self._last_pass[slot.position] == self._pass:
            what = f"parameter {slot} got a second gradient"
            raise RuntimeError(ACCUMULATION.format(what=what))
        if not self._spread_known:
            require_known_spread(self._slots)
            self._spread_known = True
        self._last_pass[slot.position] = self._pass
        self._got_gradient = True
        mode = self._mode or Mode.UPDATE
        self._step_is_open |= mode is Mode.UPDATE
        return mode

    def _check_not_failed(self) -> None:
        if self._failed:
            raise RuntimeError(FAILED)

    def _check_not_closed(self) -> None:
        if self._closed:
            raise RuntimeError("this optimizer was closed: its hooks are gone; make a new one")
