"""LOMO (Lv et al., ACL 2024): SGD inside the backward pass, with no gradient left behind."""

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .fused_backward import FusedBackward
from .tensors import SIXTEEN_BIT, chunks


class Lomo(FusedBackward):
    """LOMO Algorithm 1: theta <- theta - lr (g + weight_decay theta), one tensor at a time.

    No optimizer state; of the gradients, at most one tensor is alive. fp32 without clipping is
    torch.optim.SGD(foreach=False) bit for bit. 16-bit weights get the bits of fp32 copies, rounded
    back once: without weight decay those of theta - (lr g), each operation rounded to fp32, and
    nothing is allocated; with weight decay those of SGD, in chunks of a constant size.

    Args:
        params: parameters, named parameters or groups; any float dtype, any shape.
        lr: step size, above 0; read at each update, so schedulers (which may reach 0) work.
        weight_decay: L2 penalty, added to the gradient as torch.optim.SGD does; 0 or above.
        max_grad_norm: clip by the global norm, above 0; needs `optimizer.backward(loss)`.

    Raises ValueError for values that are not allowed. See `FusedBackward` for what else is refused.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
    ) -> None:
        self._ones: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay}, max_grad_norm)

    def _update(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], scale: float
    ) -> None:
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        if weight_decay:
            _step_with_decay(parameter, gradient, lr, weight_decay, scale)
        elif parameter.dtype in SIXTEEN_BIT:
            # On a CPU, add_ rounds alpha to 16 bits before it multiplies; addcmul_ keeps it in
            # fp32 and rounds the sum once, as an fp32 copy would, and allocates nothing. A factor
            # of one also makes it the same with and without fused multiply-add.
            parameter.addcmul_(gradient, self._one(parameter), value=-lr * scale)
        else:
            parameter.add_(gradient, alpha=-lr * scale)

    def _one(self, parameter: Tensor) -> Tensor:
        key = (parameter.device, parameter.dtype)
        if key not in self._ones:
            self._ones[key] = torch.ones((), device=key[0], dtype=key[1])
        return self._ones[key]


def _step_with_decay(
    parameter: Tensor, gradient: Tensor, lr: float, weight_decay: float, scale: float
) -> None:
    """SGD with coupled decay, in chunks, so that scratch is small; 16-bit passes through fp32."""
    wide = torch.float32 if parameter.dtype in SIXTEEN_BIT else parameter.dtype
    for weight, grad in zip(chunks(parameter), chunks(gradient), strict=True):
        copy = weight.to(wide)  # the weight itself where it is wide already
        step = grad.to(wide).mul(scale).add_(copy, alpha=weight_decay)
        weight.copy_(copy.add_(step, alpha=-lr))
