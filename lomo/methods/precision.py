"""Which optimizer holds the weights of a given precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lomo.optim import MasterCopy


def with_master_copy(
    optimizer_class: Callable[..., torch.optim.Optimizer],
    parameters: Iterable[nn.Parameter],
    **options: Any,
) -> torch.optim.Optimizer:
    """The optimizer as such for fp32 weights, over fp32 master copies for 16-bit ones.

    The for-loop variants are used: the multi-tensor ones need a second copy of all weights at
    their peak, which would be charged to the method.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    # ZeRO-3 keeps fp32 copies of its own.
    is_zero3 = any(hasattr(parameter, "ds_id") for parameter in trainable)
    if is_zero3 or all(parameter.dtype == torch.float32 for parameter in trainable):
        return optimizer_class(trainable, foreach=False, **options)
    return MasterCopy(trainable, optimizer_class, **options)
