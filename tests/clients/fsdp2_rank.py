"""One rank of a plain FSDP2 loop: `torchrun -m tests.clients.fsdp2_rank`; rank 0 prints facts.

Beside SGD in the same loop, and the snippet of docs/in-your-loop.md as it stands there.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD

from lomo.engines.launch import leave
from lomo.optim import Lomo
from tests.clients.page import run_section
from tests.numerics.models import llama, loss_of, max_difference, weights

LIMIT = 0.5


def rank_loss(model: nn.Module, step: int) -> Tensor:
    """Another batch on each rank; FSDP2 takes the mean over ranks."""
    return loss_of(model, 10 * step + dist.get_rank())


def trained(make: Callable[[Any], Any], backward: Callable[..., Any]) -> dict[str, Tensor]:
    """Whole weights after five steps."""
    model = llama()
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = make(model.parameters())
    for step in range(5):
        backward(optimizer, model, rank_loss(model, step))
        optimizer.step()
        optimizer.zero_grad()
    return whole(model)


def whole(model: Any) -> dict[str, Tensor]:
    model.reshard()  # the root stays gathered after a backward
    return {name: p.full_tensor().detach() for name, p in model.named_parameters()}


def plain(optimizer: Any, model: nn.Module, loss: Tensor) -> None:
    loss.backward()


def clipped_by_torch(optimizer: Any, model: nn.Module, loss: Tensor) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), LIMIT)


def clipped_by_itself(optimizer: Any, model: nn.Module, loss: Tensor) -> None:
    optimizer.backward(loss)


def sgd(params: Any) -> SGD:
    return SGD(params, lr=0.1, foreach=False)


def main() -> None:
    warnings.simplefilter("error")
    dist.init_process_group("gloo")
    before = weights(llama())
    expected = trained(sgd, plain)
    clipped = trained(sgd, clipped_by_torch)
    found = {
        "moved": max_difference(expected, before),
        "plain": max_difference(trained(lambda p: Lomo(p, lr=0.1), plain), expected),
        "clipped": max_difference(
            trained(lambda p: Lomo(p, lr=0.1, max_grad_norm=LIMIT), clipped_by_itself), clipped
        ),
        "clipping matters": max_difference(clipped, expected),
    }
    names = run_section("FSDP2", {"model": llama(), "loss_of": rank_loss})
    found["snippet"] = max_difference(whole(names["model"]), before)
    if dist.get_rank() == 0:
        print(json.dumps(found))
    leave()


if __name__ == "__main__":
    main()
