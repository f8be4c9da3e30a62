"""One process, one device; and what every engine has to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

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
