"""Finds the tensors that hold bytes: inside containers, optimizers and wrapper tensors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch


def is_wrapper(tensor_or_type: object) -> bool:
    """Whether it is a tensor (or type) such as DTensor, which only stands for tensors inside it."""
    return hasattr(tensor_or_type, "__tensor_flatten__")


def plain_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that hold the bytes: `tensor` itself, or what a wrapper such as DTensor holds."""
    if not is_wrapper(tensor):
        yield tensor
        if hasattr(tensor, "ds_tensor"):  # ZeRO-3 holds a rank's partition beside the parameter
            yield tensor.ds_tensor
        return
    flatten: Any = getattr(tensor, "__tensor_flatten__")  # noqa: B009 (no type stub has it)
    for attribute in flatten()[0]:
        inner = getattr(tensor, attribute)
        if isinstance(inner, torch.Tensor):  # a DTensor lists its mesh too
            yield from plain_tensors(inner)


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """Every tensor in nested containers and optimizers: all their attributes, inner optimizers too.

    Mapping keys are not looked at: in `optimizer.state` they are the parameters.
    """
    yield from _walk(list(value) if isinstance(value, Iterator) else value, {})


def _walk(value: object, visited: dict[int, object]) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
        return
    inner: Iterable[object]
    if isinstance(value, torch.optim.Optimizer):
        inner = vars(value).values()
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        inner = value
    else:
        return
    if id(value) not in visited:
        visited[id(value)] = value  # held, so that no other object takes its id
        for item in inner:
            yield from _walk(item, visited)
