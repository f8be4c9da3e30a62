"""What an optimizer keeps from its first step on, without that step's passes; and updates that are
like one before: what that did to memory is done again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from lomo.memory.measured.meter import Change, StorageMeter


def is_ours(optimizer: Optimizer) -> bool:
    """Whether it is a FusedBackward, told by what only that has.

    Its class is not imported: a prediction's fingerprint covers all imports, and AdamW's must not
    change with LOMO's update.
    """
    return hasattr(optimizer, "norm_scope")


def make_state(optimizer: Optimizer) -> None:
    """Lets `optimizer` make its state, by its own code, from gradients that come from nowhere.

    Every trained parameter then has state, also one that a model's backward would give no gradient.
    Somebody else's fused optimizer is left as it is: only its backward knows when it makes state.
    """
    if is_ours(optimizer):
        _step_in_backward(optimizer)
    elif not hasattr(optimizer, "backward"):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()


def drop_unused_state(optimizer: Optimizer, updated: Collection[torch.Tensor]) -> bool:
    """Drops what `make_state` made for parameters that a real step has not `updated`.

    Returns whether there was such state. An ordinary optimizer's is left: it may hold what was
    there before any step.
    """
    if not is_ours(optimizer):
        return False
    unused = [parameter for parameter in optimizer.state if parameter not in updated]
    for parameter in unused:
        del optimizer.state[parameter]
    return bool(unused)


def _step_in_backward(optimizer: Any) -> None:
    """One parameter of each kind is updated; the others get copies of what that made.

    All could be, but AdaLomo's update of a large matrix is a hundred operations.
    """
    kinds: dict[tuple[object, ...], list[torch.Tensor]] = {}
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            if parameter.requires_grad:
                kinds.setdefault((index, *_kind(parameter)), []).append(parameter)
    loss: torch.Tensor = _FromNowhere.apply(*(alike[0] for alike in kinds.values()))
    optimizer.backward(loss)
    optimizer.step()
    for first, *others in kinds.values():
        for other in others if first in optimizer.state else ():
            made = optimizer.state[first].items()
            optimizer.state[other] = {key: _copied(value) for key, value in made}


def _kind(parameter: torch.Tensor) -> tuple[object, ...]:
    placements = tuple(getattr(parameter, "placements", ()))  # of a DTensor
    return parameter.shape, parameter.stride(), parameter.dtype, placements


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


class _FromNowhere(torch.autograd.Function):
    """A loss that depends on all its inputs, and whose backward reads none of them."""

    @staticmethod
    def forward(ctx: Any, *parameters: torch.Tensor) -> torch.Tensor:
        ctx.parameters = parameters
        return torch.zeros(())

    @staticmethod
    def backward(ctx: Any, *_gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.zeros_like(parameter) for parameter in ctx.parameters)


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
        key = _key_of(shard, slot, scale)
        if key in self.known:
            self.meter.repeat(self.known[key])
            return
        before = self.meter.held()
        start = len(self.meter.changes)
        self.update(shard, slot, scale)
        if key is not None and self.meter.held() == before:
            self.known[key] = self.meter.changes[start:]


def _key_of(shard: Any, slot: Any, scale: Any) -> Hashable:
    """All that can decide what an update does to memory; None if it hangs on a number."""
    if isinstance(scale, torch.Tensor):
        return None
    tensors = _layout(shard.parameter), _layout(shard.gradient)
    return (*tensors, shard.shape, shard.group is None, slot.group_index, scale)


def _layout(tensor: torch.Tensor) -> Hashable:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype
