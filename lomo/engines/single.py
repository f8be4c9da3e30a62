"""One process, one device; what every engine has to answer; and one step taken with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lomo.engines.prepared import Prepared
from lomo.tasks.batches import Batch

# Gives the parameters of a module their values, where they don't have them yet.
Draw = Callable[[nn.Module], None]


def as_it_is(module: nn.Module) -> None:
    """The Draw of a model whose parameters have their values."""


class Single:
    """One process on one device. The other engines differ from it in these methods.

    Attributes:
        device: "cpu" or "cuda", where this process trains.
        spreads: whether `spread` moves a model from the host, with rank 0's weights for all.
        rank, world_size: number of this process, and of all.
    """

    spreads = False

    def __init__(self, device: str) -> None:
        self.device = device
        self.rank, self.world_size = 0, 1

    def spread(self, model: nn.Module, draw: Draw = as_it_is) -> nn.Module:
        """The model with its parameters spread over the devices; called before optimizers exist.

        `draw` is called with each part before that is spread.
        """
        return model

    def ready(self, prepared: Prepared, *, max_grad_norm: float | None) -> Prepared:
        """What a method has made, ready for steps."""
        return prepared

    def share(self, batch: Batch) -> Batch:
        """This rank's share of a batch; shares have one shape on all ranks."""
        return batch

    def before_forward(self, *, is_last: bool) -> None:
        """Told before each micro-batch, and which is the step's last."""

    def before_backward(self, loss: Tensor) -> None:
        """Told before the backward pass of `loss`, which may run twice."""

    def total(self, value: float) -> float:
        """The sum of `value` over all ranks."""
        return value

    def agreed(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank: all ranks then do the same."""
        return flag

    def settle(self) -> None:
        """Waits until what was sent between ranks holds no tensor: where bytes are counted."""

    def own_parts(self, model: nn.Module) -> dict[str, Tensor]:
        """What this rank holds of each trainable parameter, by name: plain tensors, not copies."""
        return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def load_parts(self, model: nn.Module, kept: Mapping[str, Tensor]) -> None:
        """Writes copies of `own_parts` back. What optimizers hold is left as it is."""
        for name, part in self.own_parts(model).items():
            part.copy_(kept[name])


ALONE = Single("cpu")


def start(device: str) -> Single:
    """The engine of a process of its own."""
    return Single(device)


StepPhase = Literal["forward", "backward", "step"]


@dataclass(frozen=True)
class StepResult:
    """Loss of the step's batch and the gradient's global norm before clipping, if it was taken."""

    loss: float
    grad_norm: float | None
    # Some norm was not finite; what moved all the same, see `training_step`.
    skipped: bool = False


def _ignore(phase: StepPhase) -> None:
    pass


def training_step(
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    micro_batches: Sequence[Batch],
    *,
    max_grad_norm: float | None,
    engine: Single = ALONE,
    enter: Callable[[StepPhase], None] = _ignore,
) -> StepResult:
    """One optimizer step: forward, backward, update.

    The loss is the mean over the target tokens of all micro-batches. Every rank is given the same
    ones and takes its share of each. A fused optimizer (one with
    `backward`) updates its parameters inside the backward pass and clips their norm itself; the
    others are clipped here, each by the norm of its own parameters. A norm that is not finite
    stops them all: weights and state stay as they were, except what a fused optimizer has moved by
    then (without clipping or by another norm than the global, the tensors whose gradients were
    finite; all, where only the norm of the others is not). `enter` is told the phase.
    """
    fused: Any = next((o for o in optimizers if hasattr(o, "backward")), None)
    ordinary = [optimizer for optimizer in optimizers if optimizer is not fused]
    num_targets = sum(batch.num_targets for batch in micro_batches)
    losses = []
    for number, batch in enumerate(micro_batches, start=1):
        engine.before_forward(is_last=number == len(micro_batches))
        enter("forward")
        loss = _loss(model, engine.share(batch), num_targets)
        losses.append(loss.detach())
        if engine.world_size > 1:  # gradients are averaged over ranks; their sum is meant
            loss = loss * engine.world_size
        engine.before_backward(loss)
        enter("backward")
        if fused is not None:
            fused.backward(loss, others=[p for o in ordinary for p in _parameters(o)])
        else:
            loss.backward()
        del loss
    enter("step")
    norms = [] if fused is None or fused.grad_norm is None else [fused.grad_norm]
    if max_grad_norm is not None:
        norms += [_clip(optimizer, max_grad_norm) for optimizer in ordinary]
    skipped = not all(map(math.isfinite, norms))
    for optimizer in optimizers:
        if optimizer is fused or not skipped:
            optimizer.step()  # of a fused one: closes the step that backward has taken or skipped
        optimizer.zero_grad()
    if fused is not None and fused.grad_norm is not None:
        norms[:1] = [fused.grad_norm]  # DeepSpeed clips in its step, and knows its norm only now
    skipped = not all(map(math.isfinite, norms))
    # Read last: the host would wait here for the device, and the device then for the host.
    total = sum(loss.item() for loss in losses)
    return StepResult(engine.total(total), norms[0] if norms else None, skipped)


def _loss(model: nn.Module, batch: Batch, num_targets: int) -> torch.Tensor:
    output: Any = model(
        input_ids=batch.input_ids_BS,
        attention_mask=batch.attention_mask_BS,
        labels=batch.labels_BS,
        num_items_in_batch=num_targets,
    )
    loss: torch.Tensor = output.loss
    return loss


def _clip(optimizer: Optimizer, max_grad_norm: float) -> float:
    """clip_grad_norm_ in its two halves: the norm of sharded gradients has yet to be added up."""
    parameters = _parameters(optimizer)
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=False)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    nn.utils.clip_grads_with_norm_(parameters, max_grad_norm, norm, foreach=False)
    return float(norm)


def _parameters(optimizer: Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
