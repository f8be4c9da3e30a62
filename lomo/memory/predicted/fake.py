"""Tensors without bytes: the whole of a training step runs on shapes, and allocates nothing.

Of a sharded step it is one rank without the others: the engines' own code on a fake process group.
"""

from __future__ import annotations

import gc
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)

from lomo.engines.fsdp2 import Fsdp2
from lomo.engines.ranks import decoder_layers
from lomo.engines.single import Single
from lomo.memory.predicted.fake_mode import RememberingMode
from lomo.model import june_2023

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


# A shape rule that is stricter than the CPU's kernel: the grouped product of a mixture of experts.
_META_CHECK = re.compile(r"^Expected inputs of BF16 type")


@contextmanager
def fake_tensors(*, as_device: str) -> Iterator[None]:
    """Inside, every new tensor is fake: shape, dtype and device "cpu", no bytes.

    as_device: "cuda" lets `lomo.optim` choose the scratch that it would take on a GPU. (Fake
    tensors can't say that they are on one: a CPU build of torch aborts at the first gradient.)
    """
    with ExitStack() as stack:
        if june_2023.in_use():
            stack.enter_context(june_2023.defaults_of_then())
        else:
            # transformers would take a fake tensor for a sign of tracing, and then materialise
            # masks that a run leaves out.
            masks = "transformers.masking_utils"
            stack.enter_context(_replaced(masks, "is_tracing", _is_not_tracing))
        if as_device != "cpu":
            stack.enter_context(
                _replaced("lomo.optim.arithmetic.tensors", "on_cpu", lambda _: False)
            )
        stack.enter_context(_patched_apply())
        stack.enter_context(_no_collection())
        stack.enter_context(warnings.catch_warnings())
        # float16 without a loss scale: nothing is trained here.
        warnings.filterwarnings("ignore", message="float16 weights without a loss scale")
        stack.enter_context(_silent("torch._subclasses.fake_tensor"))
        stack.enter_context(RememberingMode())
        yield


def unsupported_operation(error: Exception) -> str | None:
    """What a simulation can't do, if that is why it failed: the operator's name, and the reason."""
    if isinstance(error, DynamicOutputShapeException):
        return f"the shape of {error.func} depends on values"
    if isinstance(error, DataDependentOutputException):
        return f"the result of {error.func} is read as a value"
    if isinstance(error, UnsupportedOperatorException):
        return f"{error.func} has no rule for shapes"
    if isinstance(error, RuntimeError) and _META_CHECK.search(str(error)):
        return f"{RememberingMode.last} as the simulation has it: {_first_line(error)}"
    if isinstance(error, UnsupportedFakeTensorException | NotImplementedError):
        return f"{RememberingMode.last}: {_first_line(error)}"
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_not_tracing(_tensor: object = None) -> bool:
    return False


@contextmanager
def _replaced(module_name: str, name: str, value: object) -> Iterator[None]:
    import importlib

    module = importlib.import_module(module_name)
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def _silent(logger_name: str) -> Iterator[None]:
    # An operator that can't be simulated is told by the exception; the log would say it again.
    logger = logging.getLogger(logger_name)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _patched_apply() -> Iterator[None]:
    # Module.to swaps fake parameters in place, which fails: the fake mode holds weak references to
    # them. peft calls it for each adapter.
    before = nn.Module._apply
    nn.Module._apply = _apply  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module._apply = before  # type: ignore[method-assign]


def _apply(
    module: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True
) -> nn.Module:
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = function(parameter)
            if (moved.dtype, moved.device) != (parameter.dtype, parameter.device):
                module._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


@contextmanager
def _no_collection() -> Iterator[None]:
    # A cycle that is collected in the middle of a step would free bytes there by chance.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


Wrap = Literal["layer", "sublayer", "linear"]


@contextmanager
def fake_engine(engine: str, world_size: int, wrap: Wrap) -> Iterator[Single]:
    """Rank 0 of `world_size` under `engine`; collectives return at once, with nothing in them."""
    if engine == "single":
        yield Single("cpu")
        return
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        yield FakeFsdp2(wrap)
    finally:
        dist.destroy_process_group()


class FakeFsdp2(Fsdp2):
    """The engine, with a choice of what is gathered at a time.

    wrap: "layer" as the engine does, "sublayer" each part of a layer (attention, MLP, norms),
    "linear" each module of a layer that holds parameters of its own.
    """

    def __init__(self, wrap: Wrap) -> None:
        super().__init__("cpu")
        self.wrap = wrap

    def mesh(self) -> DeviceMesh:
        from torch.utils._python_dispatch import _disable_current_modes

        with _disable_current_modes():  # a mesh reads its own values
            return super().mesh()

    def wrapped(self, model: nn.Module) -> list[nn.Module]:
        inner: list[nn.Module] = []
        for layer in decoder_layers(model):
            if self.wrap == "sublayer":
                inner += [part for part in layer.children() if _holds(part)]
            elif self.wrap == "linear":
                inner += [m for m in layer.modules() if m is not layer and _owns(m)]
        return list(dict.fromkeys([*inner, *super().wrapped(model)]))  # each once, in this order


def _holds(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _owns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))
