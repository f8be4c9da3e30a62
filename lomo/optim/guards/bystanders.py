"""What a backward of ours reaches beside the parameters: read from the graph behind the loss.

Gradients for tensors that somebody else holds, such as parameters of other optimizers, inputs that
require gradients, tensors with `retain_grad()`: the first of two passes must add nothing to them,
and a loss scale has no place in them.

And whole-model torch.compile: one backward graph that returns all gradients at once. The update
still happens, but every gradient is alive by then, which is what LOMO is there to avoid (measured:
112.6 MiB over the weights instead of 27.7). Compile layer by layer instead.
"""

import gc
import warnings
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ..hooks import COMPILED_FOR_ONE_PASS, HOOKED_BY_OTHERS, has_using_hooks

Node = Any  # torch.autograd.graph.Node


def nodes_behind(roots: Iterable[Tensor]) -> dict[Node, tuple[Node, ...]]:
    """Each node of the graph, and those that its backward hands gradients to."""
    nodes: list[Node] = [root.grad_fn for root in roots if root.grad_fn is not None]
    found: dict[Node, tuple[Node, ...]] = {}
    while nodes:
        node = nodes.pop()
        if node not in found:
            found[node] = tuple(next_ for next_, _ in node.next_functions if next_ is not None)
            nodes += found[node]
    return found


def leaf_of(node: Node) -> Tensor | None:
    """The tensor whose .grad a node of accumulation adds to; None for other nodes."""
    leaf: Tensor | None = getattr(node, "variable", None)
    return leaf


class Bystanders:
    """Finds them: leaves by walking the graph, the rest among the tensors that are alive.

    A node of somebody's Python (a reentrant checkpoint) may hide a graph of its own. From the first
    time on that there is one, all leaves that are alive are taken for bystanders; to those that no
    gradient reaches it makes no difference.
    """

    def __init__(self) -> None:
        self._noted: list[weakref.ref[Tensor]] | None = None  # since the last backward
        self._leaves: list[weakref.ref[Tensor]] | None = None  # once a node may hide some

    def of(self, loss: Tensor, own: Collection[Tensor], named: Iterable[Tensor]) -> list[Tensor]:
        """All of this backward; `named` are known already, `own` are the optimizer's.

        Raises RuntimeError for one whose gradient a hook of its own would use in each pass.
        """
        nodes = nodes_behind([loss])
        leaves = (leaf_of(node) for node in nodes)
        reached = (leaf for leaf in (*named, *leaves) if leaf is not None)
        found = {id(leaf): leaf for leaf in reached if leaf not in own}
        _require_no_hooks(found.values())
        if not isinstance(loss, FakeTensor):
            new = self._new_tensors()
            retaining = (tensor for tensor in new if tensor.retains_grad)
            found |= {id(tensor): tensor for tensor in retaining if tensor.grad_fn in nodes}
            hidden = self._hidden(new, nodes)
            found |= {id(leaf): leaf for leaf in hidden if leaf not in own}
        return list(found.values())

    def _hidden(self, new: list[Tensor], nodes: Collection[Node]) -> list[Tensor]:
        """Leaves that a node may hide; frozen ones are remembered, until they train."""
        if self._leaves is None:
            if not any(map(_may_hide_leaves, nodes)):
                return []
            self._leaves, new = [], _tensors_among(gc.get_objects())
        self._leaves += [weakref.ref(leaf) for leaf in new if leaf.is_leaf]
        alive = {id(leaf): leaf for leaf in (ref() for ref in self._leaves) if leaf is not None}
        self._leaves = [weakref.ref(leaf) for leaf in alive.values()]
        return [leaf for leaf in alive.values() if leaf.requires_grad and leaf.is_leaf]

    def _new_tensors(self) -> list[Tensor]:
        """Those that were made since the last backward, and may be a few more; at first all.

        Among them are those with `retain_grad()`, which no node of the graph knows. To look at all
        objects each time, or after each of the collector's runs, may take longer than the step.
        """
        if self._noted is None:
            self._noted = []
            _before_collections(weakref.WeakMethod(self._note))
            return _tensors_among(gc.get_objects())
        noted, self._noted = self._noted, []
        alive = [tensor for tensor in (ref() for ref in noted) if tensor is not None]
        return alive + _tensors_among(gc.get_objects(0))

    def _note(self) -> None:
        """Note the tensors among the youngest objects, which are about to grow older."""
        assert self._noted is not None
        if len(self._noted) > _MANY:  # nobody asks: what is dead goes
            self._noted = [ref for ref in self._noted if ref() is not None]
        self._noted += map(weakref.ref, _tensors_among(gc.get_objects(0)))


_MANY = 1 << 14


def _before_collections(note: "weakref.WeakMethod[Callable[[], None]]") -> None:
    """Call `note` before each run of Python's collector, for as long as its owner lives."""

    def call(phase: str, info: dict[str, int]) -> None:
        method = note() if phase == "start" else None
        if method is not None:
            method()

    gc.callbacks.append(call)
    owner: Any = note()
    weakref.finalize(owner.__self__, gc.callbacks.remove, call).atexit = False


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


def _tensors_among(things: list[Any]) -> list[Tensor]:
    return [thing for thing in things if issubclass(type(thing), Tensor)]


_WARNING = (
    "the model is compiled as a whole: its backward returns all gradients at once, so they take "
    "as much memory as without a fused update; compile each layer instead "
    "(for layer in model.model.layers: layer.compile())"
)


def warn_if_named_as_compiled(names: Sequence[str]) -> None:
    """Warn if the parameters' names are those of a torch.compile wrapper around them all."""
    if names and all(name.startswith("_orig_mod.") for name in names):
        warnings.warn(_WARNING, UserWarning, stacklevel=5)


def warn_if_compiled_as_a_whole(loss: Tensor, parameters: Collection[Tensor]) -> None:
    """Warn if one compiled node of the graph behind `loss` feeds most of `parameters`."""
    for node, following in nodes_behind([loss]).items():
        if "CompiledFunction" in node.name():
            leaves = [leaf_of(next_node) for next_node in following]
            fed = sum(leaf is not None and leaf in parameters for leaf in leaves)
            if fed > 1 and 2 * fed > len(parameters):
                warnings.warn(_WARNING, UserWarning, stacklevel=4)
                return


@contextmanager
def told_if_compiled_for_one_pass() -> Iterator[None]:
    """Says why a compiled backward refuses to keep its graph; torch speaks of donated buffers."""
    try:
        yield
    except RuntimeError as error:
        if "donated buffers" in str(error):
            raise RuntimeError(COMPILED_FOR_ONE_PASS) from error
        raise
