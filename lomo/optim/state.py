"""Loading of optimizer state without a change of dtype."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .wrappers import WrappableOptimizer


class ExactStateOptimizer(WrappableOptimizer):
    """An optimizer whose `load_state_dict` gives back each state tensor bit for bit.

    torch casts floating-point state to the dtype of its parameter, which would round the fp32 state
    of a 16-bit parameter, so a resumed run would not be the same run.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and state; tensors are copied, so nothing is shared with `state_dict`.

        Tensors move to their parameter's device, except `step`, which torch keeps on the CPU.
        Raises ValueError if groups or their sizes do not match.
        """
        super().load_state_dict(state_dict)
        for saved, parameter in self._saved_and_own(state_dict):
            for key, value in saved.items():
                if isinstance(value, Tensor):
                    device = value.device if key == "step" else parameter.device
                    self.state[parameter][key] = value.detach().to(device, copy=True)

    def _saved_and_own(
        self, state_dict: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], torch.nn.Parameter]]:
        for saved_group, group in zip(state_dict["param_groups"], self.param_groups, strict=True):
            for key, parameter in zip(saved_group["params"], group["params"], strict=True):
                if key in state_dict["state"]:
                    yield state_dict["state"][key], parameter
