"""Mixed precision as the paper's baseline holds it: 16-bit weights, fp32 master copies."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from .applied import AppliedSteps
from .arithmetic.tensors import SIXTEEN_BIT
from .guards.checks import require_unique
from .state import ExactStateOptimizer, require_shape


class _Inner(NamedTuple):
    """The fp32 side of one parameter."""

    master: Tensor
    optimizer: Optimizer


class MasterCopy(ExactStateOptimizer):
    """Runs a torch optimizer on fp32 copies of 16-bit weights, then rounds them back.

    Bytes per parameter: 2 weight + 2 gradient + 4 master + the state of the inner optimizer in
    fp32 (SGD 0, AdamW 8): the 2+2+4 and 2+2+12 of the paper's Table 1. There is one inner
    optimizer a parameter, with foreach=False, so that scratch is one tensor large.

    Weights must be in place when it is made: those that change afterwards are refused at `step()`,
    since the next step would overwrite them with the stale master.

    State, in `state_dict`: `master` (fp32, the parameter's shape) beside what the inner optimizer
    keeps; it is loaded bit for bit.

    Args:
        params: parameters, named parameters or groups. Those that are trained must be fp16 or
            bf16: fp32 weights are their own master, so use the torch optimizer directly.
        optimizer_class: such as torch.optim.SGD or torch.optim.AdamW.
        options: its keyword arguments; they become the defaults of the groups here, and what a
            scheduler changes in a group reaches the inner optimizers before each step.

    Raises ValueError for parameters that are not 16-bit.
    """

    def __init__(
        self, params: ParamsT, optimizer_class: Callable[..., Optimizer], **options: Any
    ) -> None:
        self._make_inner = optimizer_class
        self._options = {"foreach": False, **options}
        self._inner: dict[Tensor, _Inner] = {}
        self._versions: dict[Tensor, int] = {}  # torch counts in-place writes to each tensor
        # One throw-away optimizer checks the options and knows the defaults of those not given.
        throw_away = optimizer_class([torch.zeros(1)], **self._options)
        self._kind = f"MasterCopy({type(throw_away).__name__})"
        super().__init__(params, throw_away.defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and make the master copies of its parameters that are trained.

        Raises ValueError for a parameter that is trained and not 16-bit, or that occurs twice.
        """
        super().add_param_group(param_group)
        trained = [p for p in self.param_groups[-1]["params"] if p.requires_grad]
        try:
            require_unique(self.param_groups[-1]["params"])
            _require_sixteen_bit(trained)
        except ValueError:
            self.param_groups.pop()
            raise
        for parameter in trained:
            self._add_inner(parameter)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update the masters of all parameters that have a gradient, and round them back.

        Raises RuntimeError if a weight was changed by somebody else.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            options = {k: v for k, v in group.items() if k not in ("params", "param_names")}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, options)
        return loss

    def applied_steps(self, groups: Mapping[Tensor, str], *, seed: int = 0) -> AppliedSteps:
        """Watches what 16-bit weights take of the change of their copies, which keep the rest."""
        return AppliedSteps(
            self, "_step_one", self._step_one_watched, groups, intended="master_copy", seed=seed
        )

    def _step_one_watched(
        self, applied: AppliedSteps, parameter: Tensor, options: dict[str, Any]
    ) -> None:
        places = applied.places(parameter)
        if places is None:
            type(self)._step_one(self, parameter, options)
            return
        before = parameter.take(places)
        master = self.state[parameter]["master"].take(places)
        type(self)._step_one(self, parameter, options)
        step = self.state[parameter]["master"].take(places) - master
        applied.note(parameter, step, before)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load masters and inner state bit for bit; load the model's weights as well.

        Raises ValueError, with nothing changed, if a trained parameter has no master of its shape
        in `state_dict`, or if another inner optimizer has saved it.
        """
        super().load_state_dict(state_dict)

    def _require_own(self, saved: dict[str, Any]) -> None:
        super()._require_own(saved)
        masters = {id(p): values.get("master") for values, p in self._saved_and_own(saved)}
        for parameter, (master, _) in self._inner.items():
            if masters.get(id(parameter)) is None:
                raise ValueError(
                    "the loaded state has no master copy for some parameter: it was not saved by a "
                    "MasterCopy of the same trained parameters"
                )
            require_shape("master", masters[id(parameter)], tuple(master.shape))

    def _restore(self, saved: dict[str, Any]) -> None:
        super()._restore(saved)
        for parameter in self._inner:
            self._take_state(parameter)  # and let go of the copy
            self._versions[parameter] = -1  # compare with the weights at the next step

    def _add_inner(self, parameter: Tensor) -> None:
        master = parameter.detach().float()
        self._inner[parameter] = _Inner(master, self._make_inner([master], **self._options))
        self._versions[parameter] = parameter._version
        self.state[parameter]["master"] = master

    def _step_one(self, parameter: Tensor, options: dict[str, Any]) -> None:
        if parameter not in self._inner:
            raise RuntimeError(
                "a parameter that was frozen when MasterCopy was made has a gradient: it has no "
                "master copy; make a new MasterCopy after the change of requires_grad"
            )
        master, optimizer = self._take_state(parameter)
        self._check_unchanged(parameter, master)
        assert parameter.grad is not None
        optimizer.param_groups[0].update(options)
        master.grad = parameter.grad.float()
        optimizer.step()
        master.grad = None
        parameter.copy_(master)
        self._versions[parameter] = parameter._version
        self.state[parameter] = {"master": master, **optimizer.state[master]}

    def _take_state(self, parameter: Tensor) -> _Inner:
        """The fp32 side as `state` has it, which may have been loaded, hooked or cleared."""
        inner = self._inner[parameter]
        state = self.state[parameter]
        master = state.get("master", inner.master)
        if master is not inner.master:
            inner.master.copy_(master)  # into the tensor that the inner optimizer holds
            state["master"] = inner.master
        kept = {name: value for name, value in state.items() if name != "master"}
        if kept:
            inner.optimizer.state[inner.master] = kept
        else:  # it makes its first state itself
            inner.optimizer.state.pop(inner.master, None)
        return inner

    def _check_unchanged(self, parameter: Tensor, master: Tensor) -> None:
        if parameter._version == self._versions[parameter]:
            return
        if not torch.equal(parameter, master.to(parameter.dtype)):
            raise RuntimeError(
                "a weight differs from its master copy: it was changed after MasterCopy was made "
                "or loaded, and this step would undo that. Load the weights first, then make the "
                "MasterCopy; when resuming, load both the model and the optimizer"
            )


def _require_sixteen_bit(params: list[Tensor]) -> None:
    for parameter in params:
        if parameter.dtype not in SIXTEEN_BIT:
            raise ValueError(
                f"MasterCopy needs float16 or bfloat16 parameters, got {parameter.dtype}; "
                "other weights need no master copy: use the torch optimizer directly"
            )
