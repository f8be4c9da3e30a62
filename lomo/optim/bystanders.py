"""Gradients that a backward of ours makes for tensors that somebody else holds.

Parameters of other optimizers, inputs that require gradients, tensors with `retain_grad()`: the
first of two passes must add nothing to their gradients, and a loss scale has no place in them.
"""

import gc
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .graph import Node, leaf_of, nodes_behind
from .hooks import HOOKED_BY_OTHERS, has_using_hooks


class Bystanders:
    """Finds them: leaves by walking the graph, the rest among the tensors that are alive.

    A node of somebody's Python (a reentrant checkpoint) may hide a graph of its own. The first time
    that there is one, all leaves that are alive are taken for bystanders; to those that no
    gradient reaches it makes no difference.
    """

    def __init__(self) -> None:
        self._hidden: list[weakref.ref[Tensor]] | None = None
        self._collections = _num_collections()

    def of(self, loss: Tensor, own: Collection[Tensor], named: Iterable[Tensor]) -> list[Tensor]:
        """All of this backward; `named` are known already, `own` are the optimizer's.

        Raises RuntimeError for one whose gradient a hook of its own would use in each pass.
        """
        nodes = nodes_behind([loss])
        leaves = (leaf_of(node) for node in nodes)
        found = {id(leaf): leaf for leaf in named}
        found |= {id(leaf): leaf for leaf in leaves if leaf is not None and leaf not in own}
        _require_no_hooks(found.values())
        if not isinstance(loss, FakeTensor):
            found |= {id(tensor): tensor for tensor in self._retaining(nodes)}
            if self._hidden is None and any(map(_may_hide_leaves, nodes)):
                self._hidden = [weakref.ref(leaf) for leaf in _leaves_alive() if leaf not in own]
            alive = (reference() for reference in self._hidden or ())
            found |= {id(leaf): leaf for leaf in alive if leaf is not None and leaf not in own}
        return list(found.values())

    def _retaining(self, nodes: Collection[Node]) -> Iterator[Tensor]:
        """Tensors with `retain_grad()`, which no node of the graph knows."""
        # This step's forward has made them, so Python's collector has them among its young objects
        # (some thousand to look at, instead of all that there are) unless it has run since.
        before, self._collections = self._collections, _num_collections()
        for generation in (0, 1) if before == self._collections else (0, 1, 2):
            for thing in gc.get_objects(generation):
                if issubclass(type(thing), Tensor) and thing.retains_grad:
                    if thing.grad_fn in nodes:
                        yield thing


@contextmanager
def gradients_kept(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Whatever is added to the gradients of `tensors` inside is dropped again."""
    before = _taken(tensors)
    try:
        yield
    finally:  # after a failure too: what is left would be counted again in the next try
        for tensor, gradient in before:
            tensor.grad = gradient


@contextmanager
def gradients_divided(tensors: Iterable[Tensor], factor: float) -> Iterator[None]:
    """Whatever is added to the gradients of `tensors` inside is divided by `factor`."""
    if factor == 1.0:
        yield
        return
    before = _taken(tensors)
    added: list[Tensor | None] = [None] * len(before)
    try:
        yield
        # Out of place: two gradients may be views of one storage, which would be scaled twice.
        added = [_multiplied(tensor.grad, 1.0 / factor) for tensor, _ in before]
    finally:
        for (tensor, gradient), new in zip(before, added, strict=True):
            tensor.grad = gradient if new is None else new if gradient is None else gradient + new


def _taken(tensors: Iterable[Tensor]) -> list[tuple[Tensor, Tensor | None]]:
    before = [(tensor, tensor.grad) for tensor in tensors]
    for tensor, _ in before:
        tensor.grad = None  # so that nothing is added in place to what is kept
    return before


def _multiplied(gradient: Tensor | None, factor: float) -> Tensor | None:
    return None if gradient is None else gradient * factor


def _require_no_hooks(leaves: Iterable[Tensor]) -> None:
    for leaf in leaves:
        if has_using_hooks(leaf):
            raise RuntimeError(HOOKED_BY_OTHERS.format(shape=tuple(leaf.shape)))


def _may_hide_leaves(node: Node) -> bool:
    if not isinstance(node, torch.autograd.function.BackwardCFunction):
        return False
    function: Any = getattr(type(node), "_forward_cls", None)
    return not getattr(function, "__module__", "").startswith(f"{__package__}.")


def _leaves_alive() -> Iterator[Tensor]:
    for thing in gc.get_objects():
        if issubclass(type(thing), Tensor) and thing.requires_grad and thing.is_leaf:
            yield thing


def _num_collections() -> int:
    """How often the collector has moved objects to the oldest."""
    return sum(of_generation["collections"] for of_generation in gc.get_stats()[1:])
