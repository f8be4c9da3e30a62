"""What stochastic rounding has to do, from a table of every number of a 16-bit type."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor


class Neighbours(NamedTuple):
    """The numbers of the type around a value, and the probability of the upper one; float64."""

    lower: Tensor
    upper: Tensor
    probability: Tensor


@functools.cache
def finite_numbers(dtype: torch.dtype) -> Tensor:
    """All finite numbers of the type in order, as float64."""
    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype).double()
    return numbers[numbers.isfinite()].unique()


# Imported by name in a process of its own, and only where Triton is.
KERNELS = "lomo.optim.arithmetic.triton_kernels"


def neighbours(value: Tensor, dtype: torch.dtype) -> Neighbours:
    """For values between the smallest and the largest number of the type."""
    numbers = finite_numbers(dtype)
    index = torch.searchsorted(numbers, value.double(), right=True).clamp(max=len(numbers) - 1)
    lower, upper = numbers[index - 1], numbers[index]
    return Neighbours(lower, upper, (value.double() - lower) / (upper - lower))


def z_score(rounded: Tensor, value: Tensor) -> Tensor:
    """Standard normal if `rounded` is right: the summed error over its standard deviation.

    Over the last dimension. Errors count in quanta, so that small values weigh as large ones do.
    """
    lower, upper, probability = neighbours(value, rounded.dtype)
    error = (rounded.double() - value.double()) / (upper - lower)
    return error.sum(-1) / (probability * (1 - probability)).sum(-1).sqrt()
