"""One rank of a sharded step, without the others: the engines' own code on a fake process group."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from torch import nn

from lomo.engines.fsdp2 import Fsdp2
from lomo.engines.ranks import decoder_layers
from lomo.engines.single import Single

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

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
