"""LOMO's update with stochastic rounding as one Triton kernel; imported where a GPU needs it."""

# Triton reads the annotations of a kernel; it knows its own alone.
# mypy: disallow-untyped-defs=False

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# Elements of one of the four parts of a program: philox makes four numbers at a time.
_PART_ELEMENTS = 512


@triton.jit
def _round_stochastically(value, noise, IS_BFLOAT16: tl.constexpr, LARGEST: tl.constexpr):
    """One of the two neighbours of `value` in the 16-bit type, in fp32; see rounding.py."""
    if IS_BFLOAT16:
        bits = value.to(tl.int32, bitcast=True) + (noise & 0xFFFF).to(tl.int32)
        rounded = (bits & -0x10000).to(tl.float32, bitcast=True)
    else:
        is_small = tl.abs(value) <= 0.00006103515625  # 2^-14, the smallest normal number
        offset = tl.where(is_small, tl.where(value < 0, -0.00006103515625, 0.00006103515625), 0.0)
        bits = (value + offset).to(tl.int32, bitcast=True) + (noise & 0x1FFF).to(tl.int32)
        rounded = (bits & -0x2000).to(tl.float32, bitcast=True) - offset
    return tl.where(tl.abs(value) <= LARGEST, rounded, value)  # inf and nan as they are


@triton.jit
def _update_part(
    weight_ptr,
    gradient_ptr,
    offsets,
    num_elements,
    noise,
    scale,
    lr,
    weight_decay,
    clip_value,
    IS_BFLOAT16: tl.constexpr,
    LARGEST: tl.constexpr,
):
    mask = offsets < num_elements
    weight = tl.load(weight_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    step = tl.load(gradient_ptr + offsets, mask=mask, other=0.0).to(tl.float32) * scale
    # Comparisons rather than a minimum, so that nan stays nan.
    step = tl.where(step > clip_value, clip_value, tl.where(step < -clip_value, -clip_value, step))
    if weight_decay != 0:  # 0 times inf would be nan
        step += weight_decay * weight
    rounded = _round_stochastically(weight - lr * step, noise, IS_BFLOAT16, LARGEST)
    tl.store(weight_ptr + offsets, rounded.to(weight_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["seed"])
def _sgd_kernel(
    weight_ptr,
    gradient_ptr,
    scale,
    num_elements,
    seed,
    lr,
    weight_decay,
    clip_value,
    IS_BFLOAT16: tl.constexpr,
    LARGEST: tl.constexpr,
    SCALE_IS_POINTER: tl.constexpr,
    PART: tl.constexpr,
):
    if SCALE_IS_POINTER:
        factor = tl.load(scale)
        if not factor > 0:  # the gradient was not finite
            return
    else:
        factor = scale
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, PART)
    counter = program * PART + lane
    low, high = counter.to(tl.uint32), (counter >> 32).to(tl.uint32)
    n0, n1, n2, n3 = tl.philox(seed, low, high, low * 0, low * 0)
    start = program * (4 * PART) + lane
    for part in tl.static_range(4):
        noise = n0 if part == 0 else n1 if part == 1 else n2 if part == 2 else n3
        _update_part(
            weight_ptr,
            gradient_ptr,
            start + part * PART,
            num_elements,
            noise,
            factor,
            lr,
            weight_decay,
            clip_value,
            IS_BFLOAT16,
            LARGEST,
        )


def sgd_stochastic_(
    weight: Tensor,
    gradient: Tensor,
    *,
    lr: float,
    scale: float | Tensor,
    weight_decay: float,
    clip_value: float | None,
    stream: int,
) -> None:
    """`sgd_step.sgd_step_` of contiguous tensors on a GPU; allocates nothing.

    `stream` is the 64-bit key of the random numbers.
    """
    num_programs = triton.cdiv(weight.numel(), 4 * _PART_ELEMENTS)
    if num_programs == 0:
        return
    _sgd_kernel[(num_programs,)](
        weight,
        gradient,
        scale,
        weight.numel(),
        stream >> 1,  # 63 bits: one signature, so one compilation, for all keys
        lr,
        weight_decay,
        math.inf if clip_value is None else clip_value,
        IS_BFLOAT16=weight.dtype == torch.bfloat16,
        LARGEST=torch.finfo(weight.dtype).max,
        SCALE_IS_POINTER=isinstance(scale, Tensor),
        PART=_PART_ELEMENTS,
        enable_fp_fusion=False,  # each operation rounds by itself, as those of torch do
    )
