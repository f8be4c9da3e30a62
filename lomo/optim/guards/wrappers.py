"""Wrappers that take on an optimizer's class: what they inherit acts on the optimizer they wrap.

Lightning and Fabric derive a class from the optimizer's and their own, so that `isinstance` holds.
A method inherited in this way would act on the wrapper: `backward` would note there that a step is
open, `load_state_dict` would load into it, and the optimizer, whose hooks move the weights, would
know of nothing.
"""

import sys
import weakref
from collections.abc import Callable
from typing import Any, Self

from torch.optim import Optimizer


class WrappableOptimizer(Optimizer):
    """An optimizer that a wrapper of its own class acts on, as if it were called itself."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        made = super().__new__(cls)
        made._itself = weakref.ref(made)
        return made

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not issubclass(cls.__bases__[0], WrappableOptimizer):
            _act_on_the_wrapped(cls)

    _itself: Callable[[], Any]  # by which a wrapper, which asks for it or copies it, is known

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters and their options, as torch has them."""
        asking = sys._getframe(1)
        if asking.f_code.co_name == "get" and asking.f_back is not None:  # below, for a wrapper
            asking = asking.f_back
        if asking.f_code.co_name == "main_params":
            self._check_clipping_by_others()
        groups: list[dict[str, Any]] = self.__dict__["param_groups"]
        return groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.__dict__["param_groups"] = groups

    def _check_strategy(self, strategy: Any) -> None:
        """Refuse what Lightning will do, before training begins."""

    def _check_clipping_by_others(self) -> None:
        """Refuse what Lightning or Fabric is about to clip: only for that do they ask so."""


def _act_on_the_wrapped(derived: type) -> None:
    """Let what `derived` has from an optimizer of ours be that of the optimizer that it wraps.

    What it and its other bases define stays theirs. An instance that wraps none, such as one of a
    class with a mix-in, is left as it is.
    """
    (ours, *_) = (base for base in derived.__bases__ if issubclass(base, WrappableOptimizer))
    own = {name for cls in derived.__mro__ if not issubclass(ours, cls) for name in vars(cls)}

    def wrapped_by(wrapper: Any, name: str) -> Any:
        """The optimizer that has `name`, or None where it is the wrapper's own."""
        if name.startswith("__") or name in own:
            return None
        attributes = object.__getattribute__(wrapper, "__dict__")
        if "_itself" in attributes:  # an optimizer, or a wrapper that has copied its attributes
            optimizer = attributes["_itself"]()
        elif name in attributes or "__getattr__" not in own:
            return None
        else:  # a wrapper that asks its optimizer for what it lacks
            optimizer = wrapper.__getattr__("_itself")()
        return optimizer if optimizer is not wrapper and hasattr(optimizer, name) else None

    def get(self: Any, name: str) -> Any:
        optimizer = wrapped_by(self, name)
        return (
            object.__getattribute__(self, name) if optimizer is None else getattr(optimizer, name)
        )

    def put(self: Any, name: str, value: Any) -> None:
        optimizer = wrapped_by(self, name)
        object.__setattr__(self, name, value) if optimizer is None else setattr(
            optimizer, name, value
        )
        if name == "_strategy":  # Lightning's, given when the Trainer has made the wrapper
            self._check_strategy(value)

    derived.__getattribute__ = get  # type: ignore[assignment]
    derived.__setattr__ = put  # type: ignore[assignment]
