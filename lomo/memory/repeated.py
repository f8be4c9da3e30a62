"""An update like one before is not run again: what that did to memory is done again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from lomo.memory.first_step import is_ours
from lomo.memory.meter import Change, StorageMeter


@contextmanager
def repeated_updates(
    optimizers: Iterable[Optimizer], meter: StorageMeter
) -> Iterator[set[torch.Tensor]]:
    """Inside, of all updates of fused optimizers that are alike only the first is run.

    Alike are those whose tensors differ in nothing but the numbers in them; for tensors without
    numbers only. Of an update that leaves memory otherwise than it was, none is a repetition.
    Yields the parameters that were updated.
    """
    updated: set[torch.Tensor] = set()
    ours: list[Any] = [optimizer for optimizer in optimizers if is_ours(optimizer)]
    for optimizer in ours:
        optimizer._update_shard = _Repeated(optimizer._update_shard, meter, updated)
    try:
        yield updated
    finally:
        for optimizer in ours:
            del optimizer._update_shard  # shows the method again


class _Repeated:
    """An optimizer's update of one shard."""

    def __init__(
        self, update: Callable[..., None], meter: StorageMeter, updated: set[torch.Tensor]
    ) -> None:
        self.update, self.meter, self.updated = update, meter, updated
        self.known: dict[Hashable, list[Change]] = {}

    def __call__(self, shard: Any, slot: Any, scale: Any) -> None:
        self.updated.add(shard.owner)
        key = _kind(shard, slot, scale)
        if key in self.known:
            self.meter.repeat(self.known[key])
            return
        before = self.meter.held()
        start = len(self.meter.changes)
        self.update(shard, slot, scale)
        if key is not None and self.meter.held() == before:
            self.known[key] = self.meter.changes[start:]


def _kind(shard: Any, slot: Any, scale: Any) -> Hashable:
    """All that can decide what an update does to memory; None if it hangs on a number."""
    if isinstance(scale, torch.Tensor):
        return None
    tensors = _layout(shard.parameter), _layout(shard.gradient)
    return (*tensors, shard.shape, shard.group is None, slot.group_index, scale)


def _layout(tensor: torch.Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype
