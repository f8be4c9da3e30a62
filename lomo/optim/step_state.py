"""What a fused optimizer saves: what a step leaves for the next, beside groups and state."""

from typing import Any, ClassVar

from torch import Tensor

from .arithmetic.scaling import LossScale
from .guards.checks import require_group_options, require_non_negative
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
