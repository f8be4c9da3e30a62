"""Stochastic rounding: 16-bit weights that move by the intended step on average.

At LLaMA-7B's step sizes nearest rounding to bfloat16 drops nearly all of a step, since it is far
below half a unit in the last place. Here a value goes to one of its two 16-bit neighbours, to the
nearer one more often, so that the mean is exact.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Rounding = Literal["nearest", "stochastic"]

_SMALLEST_NORMAL_FP16 = 2.0**-14
_QUANTUM_FP16 = 2.0**-24  # distance of neighbours below it
_generators: dict[torch.device, torch.Generator] = {}


def require_rounding(rounding: str) -> None:
    """Raise ValueError for an unknown way to round."""
    if rounding not in get_args(Rounding):
        allowed = ", ".join(get_args(Rounding))
        raise ValueError(f"rounding must be one of {allowed}, got {rounding!r}")


def write_rounded_(weight: Tensor, value: Tensor, generator: torch.Generator | None) -> None:
    """Write `value` (fp32, scratch afterwards) into `weight` (bf16 or fp16) of the same shape.

    Without a generator to the nearest; with one stochastically: representable values stay as they
    are, infinite and nan stay what they are. Allocates a few tensors of the chunk's size.
    """
    if generator is not None:
        noise = _random_words(value, generator)
        if weight.dtype == torch.bfloat16:
            _drop_low_bits_(value, noise, 16)
        else:
            value = _rounded_to_fp16(value, noise)
    weight.copy_(value)


def generator_for(
    device: torch.device, seed: int, step: int, position: int, shard: int
) -> torch.Generator:
    """The random numbers of one tensor's update: the same for the same arguments.

    Made from them alone, so that a resumed run goes on as if it had not stopped, and the order in
    which gradients come does not matter.
    """
    if device not in _generators:
        _generators[device] = torch.Generator(device)
    mixed = 0
    for number in (seed, step, position, shard):
        mixed = _mix((mixed ^ number) & _MASK)
    return _generators[device].manual_seed(mixed >> 1)


_MASK = 2**64 - 1


def _mix(number: int) -> int:
    """The finaliser of splitmix64: neighbouring numbers give unrelated ones."""
    number = (number + 0x9E3779B97F4A7C15) & _MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & _MASK
    return number ^ (number >> 31)


def _random_words(value: Tensor, generator: torch.Generator) -> Tensor:
    """Random int16 over their whole range, in the shape of `value`; four for each draw."""
    num_draws = (value.numel() + 3) // 4
    draws = torch.empty(num_draws, dtype=torch.int64, device=value.device)
    draws.random_(-(2**63), None, generator=generator)
    return draws.view(torch.int16)[: value.numel()].view(value.shape)


def _drop_low_bits_(value: Tensor, noise: Tensor, num_bits: int) -> None:
    """Cut fp32 to fewer mantissa bits, up or down: a random number below the cut may carry."""
    bits = value.view(torch.int32)
    if num_bits == 16:
        bits.add_(noise).add_(2**15)  # noise is signed
    else:
        bits.add_(noise & (2**num_bits - 1))
    bits.bitwise_and_(-(2**num_bits))


def _rounded_to_fp16(value: Tensor, noise: Tensor) -> Tensor:
    """Normals lose 13 of 23 mantissa bits; below them the neighbours are equally far apart."""
    uniform = noise.float().add_(2.0**15).mul_(2.0**-16)
    subnormal = uniform.add_(value, alpha=1.0 / _QUANTUM_FP16).floor_().mul_(_QUANTUM_FP16)
    is_subnormal = value.abs() < _SMALLEST_NORMAL_FP16
    _drop_low_bits_(value, noise, 13)
    return torch.where(is_subnormal, subnormal, value)
