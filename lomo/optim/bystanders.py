"""Gradients of parameters that another optimizer updates, in the same backward pass as ours."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def gradients_kept(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Whatever is added to the gradients of `parameters` inside is dropped again."""
    before = [(parameter, parameter.grad) for parameter in parameters]
    for parameter, _ in before:
        parameter.grad = None  # so that nothing is added in place to what is kept
    try:
        yield
    finally:  # after a failure too: what is left would be counted again in the next try
        for parameter, gradient in before:
            parameter.grad = gradient


def multiply_gradients(parameters: Iterable[Tensor], factor: float) -> None:
    """Multiply the gradients that are there, such as by the inverse of a loss scale."""
    # Out of place: two gradients may be views of one storage, which would be scaled twice.
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad = parameter.grad * factor
