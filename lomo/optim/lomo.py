"""LOMO (Lv et al., ACL 2024): SGD inside the backward pass, with no gradient left behind."""

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .applied import AppliedSteps
from .arithmetic.rounding import Rounding, Stream, generator_for, write_rounded_
from .arithmetic.scaling import NormScope
from .arithmetic.tensors import SIXTEEN_BIT, chunks
from .fused_backward import FusedBackward
from .guards.checks import require_positive
from .hooks import Slot


def sgd_step_(
    weight: Tensor,
    gradient: Tensor,
    *,
    lr: float,
    scale: float | Tensor,
    weight_decay: float,
    clip_value: float | None,
    stream: Stream | None,
) -> None:
    """theta <- round(theta - lr (clip(scale g) + weight_decay theta)), in fp32, rounded once.

    clip limits each element to +-clip_value. In chunks, so that scratch is small; stochastic
    rounding of contiguous tensors on CUDA takes one Triton kernel without scratch, where Triton is
    installed. The two draw different random numbers.

    Args:
        weight: any float dtype; updated in place.
        gradient: of the same shape and dtype; not written to.
        scale: a number, or a 0-dim fp32 tensor on the weight's device, which the host does not wait
            for; a tensor that is not above 0 leaves the weight as it is.
        stream: random numbers for stochastic rounding of 16-bit weights; None: to nearest.

    Raises ValueError for a stream and a weight that is not 16-bit.
    """
    kernels = None if stream is None else _kernels_for(weight, gradient)
    if stream is not None and kernels is not None:
        with torch.cuda.device(weight.device):
            kernels.sgd_stochastic_(
                weight,
                gradient,
                lr=lr,
                scale=scale,
                weight_decay=weight_decay,
                clip_value=clip_value,
                stream=stream.key,
            )
        return
    wide = torch.float32 if weight.dtype in SIXTEEN_BIT else weight.dtype
    generator = None if stream is None else generator_for(weight.device, stream)
    for part, gradient_part in zip(chunks(weight), chunks(gradient), strict=True):
        step = gradient_part.to(wide).mul(scale)
        if clip_value is not None:
            step.clamp_(-clip_value, clip_value)
        value = part.to(wide, copy=True)
        if weight_decay:
            step.add_(value, alpha=weight_decay)
        value.add_(step, alpha=-lr)
        if isinstance(scale, Tensor):
            value = torch.where(scale > 0, value, part)
        write_rounded_(part, value, generator)


def _kernels_for(weight: Tensor, gradient: Tensor) -> ModuleType | None:
    fits = weight.is_cuda and weight.dtype in SIXTEEN_BIT
    if fits and weight.is_contiguous() and gradient.is_contiguous():
        return _triton_kernels()
    return None


@functools.cache
def _triton_kernels() -> ModuleType | None:
    """The kernels, or None where Triton is not installed."""
    try:
        from .arithmetic import triton_kernels
    except ImportError:
        return None
    return triton_kernels


class Lomo(FusedBackward):
    """LOMO Algorithm 1: theta <- theta - lr (g + weight_decay theta), one tensor at a time.

    No optimizer state; of the gradients, at most one tensor is alive. fp32 without clipping is
    torch.optim.SGD(foreach=False) bit for bit. 16-bit weights get the bits of fp32 copies, rounded
    back once: without weight decay those of theta - (lr g), each operation rounded to fp32, and
    nothing is allocated; else in chunks of a constant size (with weight decay the bits of SGD).

    Args:
        params: parameters, named parameters or groups; any float dtype, any shape.
        lr: step size, 0 or above; read at each update, so schedulers work.
        weight_decay: L2 penalty, added to the gradient as torch.optim.SGD does; 0 or above.
        max_grad_norm, norm_scope: clipping by a norm; see `FusedBackward`.
        loss_scale, rounding, seed: for 16-bit weights; see `FusedBackward`.
        clip_value: limit of each element of the gradient, above 0 (the paper's other way to clip);
            not together with max_grad_norm.

    Raises ValueError for values that are not allowed. See `FusedBackward` for what else is refused.
    """

    _kind = "Lomo"  # of subclasses as well

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        *,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = None,
        norm_scope: NormScope = "global",
        clip_value: float | None = None,
        loss_scale: float | Literal["dynamic"] | None = None,
        rounding: Rounding = "nearest",
        seed: int = 0,
    ) -> None:
        _require_one_clipping(clip_value, max_grad_norm)
        self._clip_value = clip_value
        self._ones: dict[tuple[torch.device, torch.dtype], Tensor] = {}
        super().__init__(
            params,
            {"lr": lr, "weight_decay": weight_decay},
            max_grad_norm=max_grad_norm,
            norm_scope=norm_scope,
            loss_scale=loss_scale,
            rounding=rounding,
            seed=seed,
        )

    @property
    def clip_value(self) -> float | None:
        """Limit of each element of the gradient; None: no such limit."""
        return self._clip_value

    @clip_value.setter
    def clip_value(self, limit: float | None) -> None:
        self._require_changeable("clip_value", changes=limit != self._clip_value)
        _require_one_clipping(limit, self.max_grad_norm)
        self._clip_value = limit

    def _check_clipping(self, max_grad_norm: float | None) -> None:
        _require_one_clipping(self._clip_value, max_grad_norm)

    def _update(
        self, parameter: Tensor, gradient: Tensor, slot: Slot, scale: float | Tensor
    ) -> None:
        group = self.param_groups[slot.group_index]
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        stream = self._stream(parameter, slot)
        dense = weight_decay or self.clip_value or stream or parameter.dtype in SIXTEEN_BIT
        if gradient.is_sparse and (dense or isinstance(scale, Tensor)):
            gradient = gradient.to_dense()  # rows without a gradient take part there, or may
        if weight_decay or self.clip_value or stream or isinstance(scale, Tensor):
            sgd_step_(
                parameter,
                gradient,
                lr=lr,
                scale=scale,
                weight_decay=weight_decay,
                clip_value=self.clip_value,
                stream=stream,
            )
        elif parameter.dtype in SIXTEEN_BIT:
            # On a CPU, add_ rounds alpha to 16 bits before it multiplies; addcmul_ keeps it in
            # fp32 and rounds the sum once, as an fp32 copy would, and allocates nothing. A factor
            # of one also makes it the same with and without fused multiply-add.
            parameter.addcmul_(gradient, self._one(parameter), value=-lr * scale)
        else:
            parameter.add_(gradient, alpha=-lr * scale)

    def applied_steps(self, groups: Mapping[Tensor, str], *, seed: int = 0) -> AppliedSteps:
        """Watches what 16-bit weights take of -lr (clip(scale g) + weight_decay theta).

        Not of updates that are made inside a product (`update_in_gemm`), and not of sparse ones.
        """
        return AppliedSteps(self, "_update", self._update_watched, groups, seed=seed)

    def _update_watched(
        self,
        applied: AppliedSteps,
        parameter: Tensor,
        gradient: Tensor,
        slot: Slot,
        scale: float | Tensor,
    ) -> None:
        places = applied.places(parameter)
        if places is None or gradient.is_sparse:
            type(self)._update(self, parameter, gradient, slot, scale)
            return
        group = self.param_groups[slot.group_index]
        before = parameter.take(places)
        step = gradient.take(places).float().mul_(scale)
        if self.clip_value is not None:
            step.clamp_(-self.clip_value, self.clip_value)
        if group["weight_decay"]:
            step.add_(before.float(), alpha=float(group["weight_decay"]))
        step.mul_(-float(group["lr"]))
        if isinstance(scale, Tensor):  # 0: the gradient was not finite
            step = torch.where(scale > 0, step, 0.0)
        type(self)._update(self, parameter, gradient, slot, scale)
        applied.note(parameter, step, before)

    def _one(self, parameter: Tensor) -> Tensor:
        key = (parameter.device, parameter.dtype)
        if key not in self._ones:
            self._ones[key] = torch.ones((), device=key[0], dtype=key[1])
        return self._ones[key]


def _require_one_clipping(clip_value: float | None, max_grad_norm: float | None) -> None:
    if clip_value is None:
        return
    require_positive("clip_value", clip_value)
    if max_grad_norm is not None:
        raise ValueError("give max_grad_norm or clip_value, not both: their order matters")
