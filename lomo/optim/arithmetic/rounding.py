"""Stochastic rounding: a 16-bit weight moves by the right amount on average.

A step far below half a 16-bit ulp is lost when rounded to nearest, every time. Rounded to one of
the two neighbours at random, with the probability that makes the mean exact, none is.
"""

import functools
import threading
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Rounding = Literal["nearest", "stochastic"]


class Stream(NamedTuple):
    """What names the random numbers of one tensor's update."""

    seed: int
    step: int
    position: int
    shard: int = 0

    @property
    def key(self) -> int:
        """64 bits: splitmix64, chained over the four."""
        key = 0
        for word in self:
            key = ((key ^ word) + 0x9E3779B97F4A7C15) & _MASK_64
            key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _MASK_64
            key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _MASK_64
            key ^= key >> 31
        return key


# By how many bits the significand of fp32 is longer, and so how many random bits an element needs.
_EXTRA_BITS = {torch.bfloat16: 16, torch.float16: 13}

_SMALLEST_NORMAL_FLOAT16 = 2.0**-14
_MASK_64 = (1 << 64) - 1


def write_rounded_(weight: Tensor, value: Tensor, generator: torch.Generator | None) -> None:
    """Write fp32 numbers into 16-bit memory: weight <- round(value).

    Without a generator to nearest, ties to even. With one, to either neighbour x1 <= value <= x2 of
    the 16-bit type, to x2 with probability (value - x1) / (x2 - x1): exact for bfloat16 and for
    normal float16, to 2^-38 for subnormal float16. What the type holds does not move (-0 may
    become 0). Beyond the largest finite number it is nearest; inf and nan stay.

    Args:
        weight: bfloat16 or float16, any strides: as a rule a chunk of a larger tensor.
        value: fp32, of the same shape; overwritten.
        generator: of the same device. Four elements take one draw of 64 bits.

    Raises ValueError if `weight` is not of a 16-bit type and a generator is given.
    """
    if generator is None:
        weight.copy_(value)
        return
    num_bits = _extra_bits(weight)
    largest = torch.finfo(weight.dtype).max
    # 0 for what is in range. Added last, it gives back inf, nan and what nearest has to round.
    excess = value - value.clamp(-largest, largest)
    value.clamp_(-largest, largest)
    offset = None
    if weight.dtype == torch.float16:
        # Subnormals have a fixed quantum, 2^-24. 2^-14 further out it is an ulp like any other.
        offset = value - torch.hardshrink(value, _SMALLEST_NORMAL_FLOAT16)
        value.add_(offset.sign_().mul_(_SMALLEST_NORMAL_FLOAT16))
    # Bits of a float count its magnitude, so adding below the cut and cutting rounds outwards with
    # the probability of a carry: what is cut off, in ulp. Across a power of two as well.
    bits = value.view(torch.int32)
    bits.add_(_random_bits(value.shape, num_bits, generator))
    bits.bitwise_and_(-1 << num_bits)
    if offset is not None:
        value.sub_(offset)
    weight.copy_(value.add_(excess))


def generator_for(device: torch.device | str, stream: Stream) -> torch.Generator:
    """The random numbers of one tensor in one step: the same stream, the same numbers.

    So a resumed run is the same run, and there is no state to save. Each call hands out the one
    generator of `device` and this thread newly seeded: use it before the next call. Other streams
    are unrelated; on a CPU torch keeps 32 bits of the seed, so of 2^32 of them.
    """
    return _generator(torch.device(device), threading.get_ident()).manual_seed(stream.key)


def require_rounding(rounding: str) -> None:
    """Raise ValueError for an unknown way to round."""
    if rounding not in get_args(Rounding):
        allowed = ", ".join(get_args(Rounding))
        raise ValueError(f"rounding must be one of {allowed}, got {rounding!r}")


def _extra_bits(weight: Tensor) -> int:
    if weight.dtype not in _EXTRA_BITS:
        raise ValueError(
            f"stochastic rounding is for bfloat16 and float16 weights, got {weight.dtype}: "
            "round to nearest, which loses little in wider types"
        )
    return _EXTRA_BITS[weight.dtype]


def _random_bits(shape: torch.Size, num_bits: int, generator: torch.Generator) -> Tensor:
    """Uniform integers from 0 to 2^num_bits - 1, as int32; num_bits is 16 at most.

    Of 64-bit draws, since on a CPU the draw is what costs.
    """
    size = shape.numel()
    draws = torch.empty((size + 3) // 4, dtype=torch.int64, device=generator.device)
    draws.random_(-(2**63), None, generator=generator)
    bits = draws.view(torch.int16)[:size].to(torch.int32)
    return bits.bitwise_and_((1 << num_bits) - 1).view(shape)


@functools.lru_cache(maxsize=64)
def _generator(device: torch.device, thread: int) -> torch.Generator:
    return torch.Generator(device)
