"""What every optimizer of ours is beneath: its state is loaded exactly, and wrappers act on it.

Lightning and Fabric derive a class from the optimizer's and their own, so that `isinstance` holds.
A method inherited in this way would act on the wrapper: `backward` would note there that a step is
open, `load_state_dict` would load into it, and the optimizer, whose hooks move the weights, would
know of nothing.
"""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor
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


class ExactStateOptimizer(WrappableOptimizer):
    """An optimizer whose `load_state_dict` gives back each state tensor bit for bit.

    torch casts floating-point state to the dtype of its parameter, which would round the fp32 state
    of a 16-bit parameter, so a resumed run would not be the same run.
    """

    _kind: str  # whose state it is

    def state_dict(self) -> dict[str, Any]:
        """Groups and state as torch has them, and beside them `kind`, the name of the optimizer."""

        def complete(_: Optimizer, made: dict[str, Any]) -> None:
            made.update(self._beside_state())

        # The first of the hooks, so that those of a user see, and may change, all of it.
        handle = self.register_state_dict_post_hook(complete, prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and state; tensors are copied, so nothing is shared with `state_dict`.

        Tensors move to their parameter's device, except `step`, which torch keeps on the CPU. What
        counts is what a pre-hook makes of `state_dict`; post-hooks find everything loaded.
        Raises ValueError, with nothing changed, if groups or their sizes do not match, or for the
        state of another kind of optimizer.
        """
        with self._checked_and_restored(state_dict):
            super().load_state_dict(state_dict)

    @contextmanager
    def _checked_and_restored(self, state_dict: dict[str, Any]) -> Iterator[None]:
        """Inside, torch's loading is preceded by our checks and followed by the exact copies."""
        saved: dict[str, Any] = {}

        def check(_: Optimizer, given: dict[str, Any]) -> None:
            saved.update(self._merged(state_dict, given))
            if _sizes(saved["param_groups"]) == _sizes(self.param_groups):  # else torch raises
                self._require_own(saved)

        def restore(_: Optimizer) -> None:
            self._restore(saved)

        before = self.register_load_state_dict_pre_hook(check)  # the last of them
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        try:
            yield
        finally:
            before.remove()
            after.remove()

    def _beside_state(self) -> dict[str, Any]:
        """What `state_dict` has that torch's has not."""
        return {"kind": self._kind}

    def _merged(self, state_dict: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """What is loaded: what the pre-hooks gave, and what they left out, torch not knowing it."""
        return {**state_dict, **given}

    def _require_own(self, saved: dict[str, Any]) -> None:
        """Raise ValueError for what another kind of optimizer has saved."""
        kind = saved.get("kind", self._kind)
        if kind != self._kind:
            raise ValueError(f"the loaded state was saved by {kind}, not by {self._kind}")

    def _restore(self, saved: dict[str, Any]) -> None:
        """Copy the tensors of `saved` over what torch has cast."""
        for values, parameter in self._saved_and_own(saved):
            for key, value in values.items():
                if isinstance(value, Tensor):
                    device = value.device if key == "step" else parameter.device
                    self.state[parameter][key] = value.detach().to(device, copy=True)

    def _saved_and_own(
        self, saved: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], torch.nn.Parameter]]:
        for saved_group, group in zip(saved["param_groups"], self.param_groups, strict=True):
            for key, parameter in zip(saved_group["params"], group["params"], strict=True):
                if key in saved["state"]:
                    yield saved["state"][key], parameter


def require_shape(name: str, value: Any, shape: tuple[int, ...] | None) -> None:
    """Raise ValueError unless the saved `value` is a tensor of this shape; None: of no shape."""
    found = tuple(value.shape) if isinstance(value, Tensor) else None
    if found is None or found != shape:
        raise ValueError(
            f"the loaded state has a {name} of shape {found} where the parameter needs {shape}: it "
            "was saved for other parameters, or for these in another order"
        )


def _sizes(groups: list[dict[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]
