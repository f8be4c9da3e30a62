"""The graph behind a loss, walked once: its nodes, and the leaves that a backward would reach."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

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
