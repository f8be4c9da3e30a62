"""FSDP2: each layer's parameters are split over the ranks, and gathered while it computes."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from lomo.engines.ranks import Ranks, decoder_layers
from lomo.engines.single import Draw, as_it_is

# It warns of in-place operations on what a Linear gives; transformers and peft do none.
warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)


class Fsdp2(Ranks):
    """`fully_shard` on each decoder layer, and on each module outside of them.

    What a group holds is reduced at once: the gradients of one layer are alive together, but no
    other ones. Tied embeddings stay with the root, whose gradients come last.
    """

    def spread(self, model: nn.Module, draw: Draw = as_it_is) -> nn.Module:
        mesh = self.mesh()
        for module in (*self.wrapped(model), model):
            draw(module)
            self._take_from_rank_0(module)
            fully_shard(module, mesh=mesh)
        return model.to(self.device)  # buffers are not spread, and stand where they were loaded

    def _take_from_rank_0(self, module: nn.Module) -> None:
        """Puts what is not spread yet on the device, with rank 0's values: one module at a time."""
        for parameter in module.parameters():
            if not isinstance(parameter, DTensor):
                parameter.data = parameter.data.to(self.device)
                dist.broadcast(parameter.data, src=0)

    def mesh(self) -> DeviceMesh:
        """All ranks in a row."""
        return init_device_mesh(self.device, (self.world_size,))

    def wrapped(self, model: nn.Module) -> list[nn.Module]:
        """The modules that are gathered on their own, inner ones first."""
        layers = list(decoder_layers(model))
        inside = {module for layer in layers for module in layer.modules()}
        outside = [module for module in _unshared(model) if module not in inside]
        return [*(m for layer in layers for m in (*_other_dtypes(layer), layer)), *outside]

    def own_parts(self, model: nn.Module) -> dict[str, Tensor]:
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after an evaluation the root is still gathered
        named: list[tuple[str, Any]] = list(model.named_parameters())
        with torch.no_grad():
            return {name: p.to_local() for name, p in named if p.requires_grad}


def _unshared(model: nn.Module) -> list[nn.Module]:
    """Modules with parameters of their own that no other module has as well."""
    named = model.named_parameters(remove_duplicate=False)
    uses = Counter(id(parameter) for _, parameter in named)
    return [
        module
        for module in model.modules()
        if (own := list(module.parameters(recurse=False))) and all(uses[id(p)] == 1 for p in own)
    ]


def _other_dtypes(layer: nn.Module) -> Iterator[nn.Module]:
    """Modules whose trainable parameters have another dtype than most of the layer's.

    One reduce-scatter has one dtype: fp32 adapters beside 16-bit weights need their own.
    """
    trainable = [p for p in layer.parameters() if p.requires_grad]
    common = Counter(p.dtype for p in trainable).most_common(1)
    for module in layer.modules():
        own = {p.dtype for p in module.parameters(recurse=False) if p.requires_grad}
        if own and own != {common[0][0]}:
            yield module


def start(device: str) -> Fsdp2:
    """The engine of this rank."""
    return Fsdp2(device)
