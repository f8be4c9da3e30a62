"""The step of LOMO where one multiply-add is not enough: decay, clipping by value, rounding."""

import functools
from types import ModuleType

import torch
from torch import Tensor

from .rounding import Stream, generator_for, write_rounded_
from .tensors import SIXTEEN_BIT, chunks


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
        from . import triton_kernels
    except ImportError:
        return None
    return triton_kernels
