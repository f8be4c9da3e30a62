"""The part of the LOMO authors' trainer between a loss and its update, as a fused optimizer."""

from __future__ import annotations

from typing import Any

import lomo_optim
from torch import Tensor, nn
from torch.optim import Optimizer


class LomoOptim(Optimizer):
    """lomo_optim.Lomo with the interface of our fused optimizers: the update is in `backward`.

    max_grad_norm: limit of the global norm; the model then remembers its last call, to repeat it.
    `grad_norm` stays None: the package keeps the coefficient, not the norm.
    """

    grad_norm: float | None = None

    def __init__(self, model: nn.Module, *, lr: float, max_grad_norm: float | None) -> None:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        super().__init__(trainable, {"lr": lr})
        self._optimizer = lomo_optim.Lomo(model, lr=lr, clip_grad_norm=max_grad_norm)
        self._model = model
        self._clips = max_grad_norm is not None
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._output: Any = None
        if self._clips:
            model.register_forward_pre_hook(self._remember_call, with_kwargs=True)
            model.register_forward_hook(self._remember_output)

    def backward(self, loss: Tensor, others: Any = ()) -> None:
        """Backward and update; with clipping a backward, a forward, a backward and update."""
        lr = float(self.param_groups[0]["lr"])
        if not self._clips:
            self._optimizer.fused_backward(loss, lr)
            return
        self._optimizer.grad_norm(loss)
        again = self._forward_again()
        # The trainer overwrites `outs` and `loss` here; our caller still holds its loss.
        loss.detach_()
        self._optimizer.fused_backward(again, lr)
        self._output, self._call = None, ((), {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing is left to do."""

    def _forward_again(self) -> Tensor:
        arguments, named = self._call
        loss: Tensor = self._model(*arguments, **named).loss
        return loss

    def _remember_call(self, _: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        self._call = (arguments, named)

    def _remember_output(self, _: nn.Module, arguments: Any, output: Any) -> None:
        self._output = output
