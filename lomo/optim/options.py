"""Options of a whole optimizer: checked when they are set, in effect from the next backward on; and
what a step leaves for the next, saved beside groups and state.
"""

import math
import operator
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from .arithmetic.rounding import Rounding, Stream, require_rounding
from .arithmetic.scaling import GradientNorms, LossScale, NormScope, clip_coefficient, require_scope
from .arithmetic.tensors import SIXTEEN_BIT
from .guards.checks import require_group_options, require_non_negative
from .guards.second_pass import SecondPass
from .hooks import Mode, Slot
from .state import ExactStateOptimizer


class StepState(ExactStateOptimizer):
    """Saves and loads the number of steps, the last norm and the loss scale.

    They stand in `state_dict` under `fused_backward`.
    """

    _kind = "FusedBackward"
    loss_scale: LossScale | None
    grad_norm: float | None
    _num_steps: int
    _needed: set[str]  # options without which a group is no group of this optimizer
    _state_names: ClassVar[frozenset[str]] = frozenset()  # of what it keeps for a parameter

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and state bit for bit, and what the last step left for the next.

        A step that was open, such as one whose backward failed half-way, is forgotten. A pre-hook
        that starts from this optimizer's own state dict, as torch's example of renaming does, need
        not speak of `fused_backward`: the saved one is loaded.
        Raises ValueError, with nothing changed, for the state of another kind of optimizer.
        """
        super().load_state_dict(state_dict)

    def _check_group(self, group: dict[str, Any]) -> None:  # noqa: B027 (nothing more to check)
        """Raise ValueError for a bad option of the subclass; groups may differ in it."""

    def _check_state(self, parameter: Tensor, values: dict[str, Any]) -> None:  # noqa: B027
        """Raise ValueError for state that can't be that of `parameter`."""

    def _beside_state(self) -> dict[str, Any]:
        scale = None if self.loss_scale is None else self.loss_scale.state_dict()
        own = {"num_steps": self._num_steps, "grad_norm": self.grad_norm, "loss_scale": scale}
        return {**super()._beside_state(), "fused_backward": own}

    def _merged(self, state_dict: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        merged = super()._merged(state_dict, given)
        # What a hook has copied from this optimizer is what it knew nothing of.
        if merged.get("fused_backward") == self._beside_state()["fused_backward"]:
            merged.update({k: v for k, v in state_dict.items() if k == "fused_backward"})
        return merged

    def _require_own(self, saved: dict[str, Any]) -> None:
        for group in saved["param_groups"]:
            require_group_options(group)
            missing = sorted(self._needed - group.keys())
            if missing:
                raise ValueError(f"the loaded state has no {', '.join(missing)}: {self._not_ours}")
            require_non_negative("lr", group["lr"])  # a schedule may have reached 0
            require_non_negative("weight_decay", group["weight_decay"])
            self._check_group(group)
        super()._require_own(saved)
        own = saved.get("fused_backward")
        if not isinstance(own, dict) or {"num_steps", "grad_norm", "loss_scale"} - own.keys():
            raise ValueError(f"the loaded state has no whole fused_backward: {self._not_ours}")
        for values, parameter in self._saved_and_own(saved):
            foreign = sorted(str(name) for name in values.keys() - self._state_names)
            if foreign:
                raise ValueError(f"the loaded state has {', '.join(foreign)}: {self._not_ours}")
            self._check_state(parameter, values)

    @property
    def _not_ours(self) -> str:
        return f"it was not saved by {self._kind}"

    def _restore(self, saved: dict[str, Any]) -> None:
        super()._restore(saved)
        own = saved["fused_backward"]
        self._num_steps, self.grad_norm = own["num_steps"], own["grad_norm"]
        if self.loss_scale is not None and own["loss_scale"] is not None:
            self.loss_scale.load_state_dict(own["loss_scale"])


class OptimizerOptions(StepState):
    """Clipping, loss scale and rounding: what they are, and what they ask of a backward pass.

    Each may be changed between steps, and is checked then as it is at the start: ValueError for a
    value that is not allowed, RuntimeError while a step is open or for what `update_in_gemm` fixed.
    """

    # Whether an update must have its coefficient as a number: a host sync a tensor on a GPU.
    _coefficient_on_host = False
    grad_norm: float | None = None
    _step_is_open = False  # a gradient of this step has been used
    _num_steps = 0
    _part = 0  # of the parameter that is updated: which part of it this rank holds
    _slots: dict[Tensor, Slot]
    _last_pass: list[int]  # by position: the pass in which its gradient came last
    _clip = 1.0  # coefficient of this pass, where it is known beforehand

    def _set_options(
        self,
        *,
        max_grad_norm: float | None,
        norm_scope: NormScope,
        loss_scale: float | Literal["dynamic"] | None,
        rounding: Rounding,
        seed: int,
    ) -> None:
        require_rounding(rounding)
        require_scope(norm_scope, max_grad_norm)
        self._max_grad_norm, self._norm_scope = max_grad_norm, norm_scope
        self._rounding, self._seed = rounding, _checked_seed(seed)
        self._loss_scale = None if loss_scale is None else LossScale(loss_scale)
        self._norms = GradientNorms()
        self._check: SecondPass | None = None  # while two passes run
        self._fixed: dict[str, str] = {}  # options that can't be changed any more, and why

    @property
    def max_grad_norm(self) -> float | None:
        """Limit of the gradients' norm; inf measures only; None: no clipping."""
        return self._max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, limit: float | None) -> None:
        self._require_changeable("max_grad_norm")
        require_scope(self._norm_scope, limit)
        self._check_clipping(limit)
        self._max_grad_norm, self._clip = limit, 1.0

    @property
    def norm_scope(self) -> NormScope:
        """Whose norm clips."""
        return self._norm_scope

    @norm_scope.setter
    def norm_scope(self, scope: NormScope) -> None:
        self._require_changeable("norm_scope")
        require_scope(scope, self._max_grad_norm)
        if scope != self._norm_scope:
            self.grad_norm = None  # it may be of a step long ago, no norm to clip the next one by
        self._norm_scope, self._clip = scope, 1.0

    @property
    def loss_scale(self) -> LossScale | None:
        """The factor on the loss, or None; may be set to what the constructor takes."""
        return self._loss_scale

    @loss_scale.setter
    def loss_scale(self, scale: LossScale | float | Literal["dynamic"] | None) -> None:
        self._require_changeable("loss_scale")
        made = scale if scale is None or isinstance(scale, LossScale) else LossScale(scale)
        self._loss_scale = made

    @property
    def rounding(self) -> Rounding:
        """How 16-bit weights are rounded."""
        return self._rounding

    @rounding.setter
    def rounding(self, rounding: Rounding) -> None:
        require_rounding(rounding)
        self._require_changeable("rounding", changes=rounding != self._rounding)
        self._rounding = rounding

    @property
    def seed(self) -> int:
        """Of the stochastic rounding."""
        return self._seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self._require_changeable("seed")
        self._seed = _checked_seed(seed)

    @property
    def skipped(self) -> bool:
        """Whether the last step had a norm that is not finite."""
        return self.grad_norm is not None and not math.isfinite(self.grad_norm)

    def _check_clipping(self, max_grad_norm: float | None) -> None:
        """Raise ValueError for a limit that does not go with the subclass's own options."""

    def _require_changeable(self, name: str, *, changes: bool = True) -> None:
        if self._step_is_open:
            raise RuntimeError(
                f"{name} was set between backward and step(): this step was taken without it; "
                "set it after step()"
            )
        if changes and name in self._fixed:
            raise RuntimeError(f"{name} can't be changed any more: {self._fixed[name]}")

    def _measures_first(self) -> bool:
        """Whether this step takes two passes; if not, the coefficient is known."""
        if self._max_grad_norm is None or self._norm_scope == "parameter":
            self._clip = 1.0
            return False
        if self._norm_scope == "previous_step" and self.grad_norm is not None and not self.skipped:
            self._clip = self._clip_for(self.grad_norm)
            return False
        return True

    def _asks_for(self) -> str:
        """The option that a plain loss.backward() can't honour, or nothing."""
        if self._max_grad_norm is not None and self._norm_scope != "parameter":
            return f"max_grad_norm={self._max_grad_norm}"
        return "loss_scale" if self._loss_scale is not None else ""

    @property
    def _loss_factor(self) -> float:
        return 1.0 if self._loss_scale is None else self._loss_scale.value

    def _clip_for(self, norm: float) -> float:
        assert self._max_grad_norm is not None
        wide = any(parameter.dtype == torch.float64 for parameter in self._slots)
        dtype = torch.float64 if wide else torch.float32
        return float(clip_coefficient(torch.tensor(norm, dtype=dtype), self._max_grad_norm))

    def _note(self, mode: Mode, slot: Slot, *tensors: Tensor) -> None:
        """Take note of a gradient, or of its factors, for the comparison of two passes."""
        if self._check is not None:
            self._check.note(int(mode is Mode.UPDATE), slot.position, tensors)

    def _record_norm(self, slot: Slot, norm: Tensor, group: ProcessGroup | None = None) -> None:
        """Note the norm of the (still loss-scaled) gradient: fp32, 0-dim, on its device.

        With a `group`, `norm` is that of this rank's part.
        """
        self._norms.record(slot.position, len(self._last_pass), norm, group)
        if self._check is not None and group is not None:
            self._check.spread_over(group, norm.device)

    def _coefficient(self, slot: Slot, norm_of: Callable[[], Tensor]) -> float | Tensor | None:
        """What a gradient is multiplied with: its clip coefficient and the inverse loss scale.

        `norm_of` gives the norm of the gradient as it came. A number where the host knows it; a
        0-dim tensor where it is made on a device, so that nothing waits; None: skip the parameter,
        its gradient is not finite.
        """
        one_pass = self.max_grad_norm is not None and self.norm_scope != "global"
        if not one_pass and (self.loss_scale is None or self.max_grad_norm is not None):
            return self._clip / self._loss_factor
        norm = norm_of()
        self._record_norm(slot, norm)
        own = self.max_grad_norm if self.norm_scope == "parameter" else None
        if norm.device.type == "cpu" or self._coefficient_on_host:
            value = float(norm)
            if not math.isfinite(value):
                return None
            clip = self._clip if own is None else min(1.0, own / (value / self._loss_factor + 1e-6))
            return clip / self._loss_factor
        clips = torch.full_like(norm, self._clip)
        if own is not None:
            clips = clip_coefficient(norm / self._loss_factor, own)
        return torch.where(norm.isfinite(), clips / self._loss_factor, 0.0)

    @torch.no_grad()
    def _read_norm(self) -> None:
        self.grad_norm = self._norms.read() / self._loss_factor
        if self.max_grad_norm is not None and self.norm_scope != "parameter":
            self._clip = self._clip_for(self.grad_norm)

    def _stream(self, parameter: Tensor, slot: Slot) -> Stream | None:
        """Random numbers for rounding this update of `parameter`; None: round to nearest."""
        if self.rounding == "nearest" or parameter.dtype not in SIXTEEN_BIT:
            return None
        return Stream(self.seed, self._num_steps, slot.position, self._part)


def _checked_seed(seed: int) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__"):
        raise ValueError(f"seed must be a whole number, got {seed!r}")
    return operator.index(seed)
