"""Which optimizer updates a parameter: a second would take gradients that the first has used."""

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_owners: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def claim(parameter: Tensor, optimizer: "weakref.ref[Any]") -> None:
    """Note that `optimizer` updates `parameter`, for as long as both live."""
    _owners[parameter] = optimizer


def release(parameters: Iterable[Tensor]) -> None:
    """Let other optimizers have them."""
    for parameter in parameters:
        _owners.pop(parameter, None)


def require_free(parameters: Iterable[Tensor]) -> None:
    """Raise ValueError for a parameter that holds a gradient or that an optimizer updates."""
    for parameter in parameters:
        if parameter.grad is not None:
            raise ValueError(
                "a parameter already holds a gradient, which would be added to the first "
                "step; set it to None before making the optimizer"
            )
        owner = _owners.get(parameter)
        if owner is not None and owner() is not None:
            raise ValueError(
                "a parameter is updated by another optimizer already, which would drop its "
                "gradient; give it to one of them, or close() the other first"
            )
