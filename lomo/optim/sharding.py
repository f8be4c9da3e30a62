"""Which part of a spread parameter this rank updates, and how the ranks add up what they hold.

FSDP2 (`fully_shard`) hands a hook the sharded DTensor after its reduce-scatter. DeepSpeed ZeRO-3
hands it the gathered parameter with the rank's own gradient, before any communication. ZeRO-3 is
known by its attributes: nothing of DeepSpeed is imported.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from .arithmetic.tensors import gradient_norm

# torch 2.13 renamed it; 2.11 knows only the old name, and torch without distributed neither.
_reduce_scatter: Any = getattr(dist, "reduce_scatter_single", None) or getattr(
    dist, "reduce_scatter_tensor", None
)


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Shard:
    """What one rank holds of a parameter and of its gradient, averaged over the ranks.

    owner: the parameter itself, the key of its state.
    parameter, gradient: the rank's part, of one shape, plain tensors; both may be empty.
    shape: of the whole parameter.
    group: the ranks that hold the other parts, None where this rank holds all of it.
    write_back: to be called after `parameter` was updated.
    """

    owner: Tensor
    parameter: Tensor
    gradient: Tensor
    shape: torch.Size
    group: ProcessGroup | None = None
    write_back: Callable[[], None] = _nothing

    @property
    def index(self) -> int:
        """Which part this is; replicas of a part have the same."""
        return 0 if self.group is None else dist.get_rank(self.group)

    def total(self, partial: Tensor) -> Tensor:
        """The sum of `partial` over the ranks that hold the other parts, in place."""
        if self.group is not None:
            dist.all_reduce(partial, group=self.group)
        return partial

    def norm(self) -> Tensor:
        """Norm of the whole gradient, fp32, 0-dim, the same on every rank."""
        norm = gradient_norm(self.gradient)
        return norm if self.group is None else self.total(norm.square()).sqrt()


def shard_of(parameter: Tensor, gradient: Tensor, *, elementwise: bool) -> Shard:
    """The part of `parameter` that this rank has to update.

    Of a ZeRO-3 parameter a rank gets its flat partition where the update is `elementwise`; else
    every rank gets the whole, since a partition cuts through rows. Every rank must ask for the
    same parameters in the same order.
    Raises RuntimeError for a parameter that is not spread while other ranks are there: each rank
    would follow its own gradient. No weight has changed then.
    """
    placement = _placement(parameter)
    if placement is not None:
        return _of_dtensor(parameter, gradient, placement)
    if hasattr(parameter, "ds_id"):
        return _of_zero3(parameter, gradient, elementwise)
    require_one_process()
    return Shard(parameter, parameter, gradient, parameter.shape)


def require_unwrapped(parameters: Collection[Tensor]) -> None:
    """Raise ValueError for a wrapper around `parameters` that leaves hooks no right gradient."""
    reason = _wrapped(parameters)
    if reason is not None:
        raise ValueError(reason)


def _wrapped(parameters: Collection[Tensor]) -> str | None:
    if any(getattr(parameter, "_fsdp_flattened", False) for parameter in parameters):
        return _FSDP1
    for parameter in parameters:
        mesh: Any = getattr(parameter, "device_mesh", None)
        if mesh is not None and mesh.device_type != parameter.device.type != "meta":
            return _OFFLOADED
    if dist.is_available() and dist.is_initialized() and _replicated(parameters):
        return _REPLICAS if dist.get_world_size() > 1 else _ONE_REPLICA
    return None


def require_known_spread(parameters: Collection[Tensor]) -> None:
    """Raise RuntimeError where not every gradient will be used rightly, before the first is."""
    reason = _wrapped(parameters)
    if reason is not None:
        raise RuntimeError(f"{reason} No weight was changed.")
    for parameter in parameters:
        placement = _placement(parameter)
        if placement is not None:
            _require_rows(placement)


def why_not_taken(parameter: Tensor, taken: bool) -> str:
    """What may have left a gradient to `parameter`, whose hook was called, or was not."""
    if getattr(parameter, "_fsdp_flattened", False):
        return _FSDP1
    if taken:
        return _PUT_BACK
    return (
        "a parameter holds a gradient that no hook has taken: it was frozen when the optimizer was "
        "made, or its .grad was set by hand; such gradients are not applied"
    )


def require_one_process() -> None:
    """Raise RuntimeError if other ranks train replicas of what is not spread over them."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise RuntimeError(f"{_REPLICAS} No weight was changed.")


def release_gathered(parameters: Iterable[Tensor]) -> None:
    """Free what ZeRO-3 still holds gathered: it is as it was before the partitions were updated."""
    for parameter in parameters:
        # ZeRO-3 keeps some for the next forward: small ones, and those of the first layers.
        spread: Any = parameter
        if getattr(spread, "ds_status", None) is not None and spread.ds_status.name == "AVAILABLE":
            spread.ds_active_sub_modules.clear()
            spread.partition()


class _Placement(NamedTuple):
    group: ProcessGroup | None
    dim: int


def _placement(parameter: Tensor) -> _Placement | None:
    """The ranks over which a DTensor is split, and along which dimension; None for others.

    A second mesh dimension may hold replicas (HSDP): FSDP2 has averaged over those.
    """
    mesh: Any = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return None
    placements: Any = getattr(parameter, "placements")  # noqa: B009 (torch's stub has it not)
    split = [dim for dim, placement in enumerate(placements) if not placement.is_replicate()]
    if not split:
        return _Placement(None, 0)
    if len(split) > 1 or not placements[split[0]].is_shard():
        raise RuntimeError(
            f"a parameter is spread as {placements}: a fused update honours tensors that are "
            "split along one mesh dimension (FSDP2, HSDP), and no tensor parallelism beside it. "
            "No weight was changed."
        )
    return _Placement(mesh.get_group(split[0]), placements[split[0]].dim)


def _require_rows(placement: _Placement) -> None:
    if placement.group is not None and placement.dim != 0:
        raise RuntimeError(
            f"a parameter is split along dimension {placement.dim}: a fused update honours a "
            "split along dimension 0, fully_shard's default. No weight was changed."
        )


def _replicated(parameters: Collection[Tensor]) -> bool:
    """Whether a DistributedDataParallel holds one of them; a parameter does not know its owner."""
    from torch.nn.parallel import DistributedDataParallel

    own = {id(parameter) for parameter in parameters}

    def found() -> bool:
        # An object refers to its class. Four times as fast as a look at all objects there are.
        kinds = [DistributedDataParallel, *DistributedDataParallel.__subclasses__()]
        wrappers = (o for o in gc.get_referrers(*kinds) if type(o) in kinds)
        return any(id(parameter) in own for ddp in wrappers for parameter in ddp.parameters())

    if not found():
        return False
    gc.collect()  # one that was dropped would still be there
    return found()


def _of_dtensor(parameter: Any, gradient: Any, placement: _Placement) -> Shard:
    # Plain tensors from here on: each operation on a DTensor costs a dispatch in Python.
    _require_rows(placement)
    if getattr(gradient, "placements", None) != parameter.placements:
        raise RuntimeError(
            f"a parameter is spread as {parameter.placements} and its gradient is not: the ranks "
            "have not added up theirs yet. No weight was changed."
        )
    return Shard(
        parameter, parameter.to_local(), gradient.to_local(), parameter.shape, placement.group
    )


def _of_zero3(parameter: Any, gradient: Tensor, elementwise: bool) -> Shard:
    group: ProcessGroup = parameter.ds_process_group
    partition: Tensor = parameter.ds_tensor
    _check_zero3(parameter, gradient)
    rank, num_ranks = dist.get_rank(group), dist.get_world_size(group)
    size = partition.numel()  # the same on every rank: the last ones are padded
    if elementwise:
        flat = gradient.reshape(-1)
        if size * num_ranks != flat.numel():
            flat = torch.nn.functional.pad(flat, (0, size * num_ranks - flat.numel()))
        own = torch.empty_like(partition)
        _reduce_scatter(own, flat, group=group)
        own.div_(num_ranks)
        # Without the padding: it is no part of the parameter, and would grow by rounding.
        num_own = max(0, min(size, gradient.numel() - rank * size))
        return Shard(parameter, partition[:num_own], own[:num_own], parameter.ds_shape, group)
    whole = gradient.clone()  # autograd may still need the one that it handed over
    dist.all_reduce(whole, group=group)
    whole.div_(num_ranks)

    def write_back() -> None:
        part = parameter.data.reshape(-1)[rank * size : (rank + 1) * size]
        partition[: part.numel()].copy_(part)

    return Shard(parameter, parameter.data, whole, parameter.ds_shape, None, write_back)


def _check_zero3(parameter: Any, gradient: Tensor) -> None:
    asked: dict[str, bool] = {
        "hierarchical partitioning (zero_hpz_partition_size)": (
            parameter.ds_secondary_tensor is not None
        ),
        "offloaded or quantised parameters": (
            parameter.ds_tensor.device != gradient.device
            or parameter.ds_tensor.dtype != gradient.dtype
        ),
    }
    refused = ", ".join(name for name, wanted in asked.items() if wanted)
    if refused:
        raise RuntimeError(
            f"a fused update can't honour this setting of ZeRO-3: {refused}. No weight was changed."
        )


_REPLICAS = (
    "several processes train, and this parameter is not spread over them: each would take its own "
    "gradient, and the replicas would drift apart. Spread the model with fully_shard (FSDP2) or "
    "DeepSpeed ZeRO-3; DistributedDataParallel averages gradients only after a fused update has "
    "used them."
)
_ONE_REPLICA = (
    "DistributedDataParallel holds these parameters: it puts a gradient of its own in the place of "
    "the one that a fused update has used. One process needs no wrapper: train model.module. For "
    "several, spread the model with fully_shard (FSDP2) or DeepSpeed ZeRO-3."
)
_FSDP1 = (
    "FullyShardedDataParallel (FSDP1) has flattened these parameters: it reduces gradients only "
    "after a hook has seen them. Spread the model with fully_shard (FSDP2) instead."
)
_OFFLOADED = (
    "fully_shard offloads these parameters to another device than computes (CPUOffloadPolicy): a "
    "fused update can't honour that, as ZeRO-3's offload. Leave offload_policy out."
)
_PUT_BACK = (
    "a parameter has a gradient again after its hook has used it: a wrapper (such as "
    "DistributedDataParallel) or a hook on its AccumulateGrad node has put one back. The weights "
    "have moved by the first. Take the wrapper off, or make the optimizer after it, which refuses."
)
