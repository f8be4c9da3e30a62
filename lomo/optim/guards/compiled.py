"""Whole-model torch.compile: one backward graph that returns all gradients at once.

The update still happens, but every gradient is alive by then, which is what LOMO is there to avoid
(measured: 112.6 MiB over the weights instead of 27.7). Compile layer by layer instead.
"""

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from ..hooks import COMPILED_FOR_ONE_PASS
from .graph import leaf_of, nodes_behind

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
