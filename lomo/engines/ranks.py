"""What engines of several processes have in common: the process group and shares of a batch.

On CPUs the group is gloo with one worker thread. Each of gloo's threads holds the tensors of its
last collective until it gets a processor again, which on a busy machine is later than the host goes
on. Of torch's two threads one may be late for long; one alone lets go of a collective before it
takes the next, so after `settle` nothing is held.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import pad
from torch.utils._python_dispatch import _disable_current_modes

from lomo.engines.single import Single
from lomo.tasks.batches import IGNORED, Batch

_BACKEND = "gloo_in_order"


def _start_gloo(
    store: dist.Store, rank: int, size: int, timeout: timedelta
) -> dist.ProcessGroupGloo:
    gloo: Any = dist.ProcessGroupGloo  # its options have no type stubs
    options = gloo._Options()
    options._devices = [gloo.create_default_device()]
    options._timeout = timeout
    options._threads = 1
    return dist.ProcessGroupGloo(store, rank, size, options)


def register_gloo() -> str:
    """The name of the backend, for `init_process_group`; makes it known to torch."""
    if _BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(_BACKEND, _start_gloo, devices="cpu")
    return _BACKEND


def settle_gloo() -> None:
    """Waits until no finished collective of this rank holds a tensor; all ranks have to call it."""
    with _disable_current_modes():  # what this takes is no part of a step
        # Not a barrier: it refers to the collectives before it until it is itself dropped.
        dist.all_reduce(torch.zeros(1))


# No step, load or evaluation of one rank keeps the others waiting for so long.
TIMEOUT = timedelta(minutes=30)


class Ranks(Single):
    """One of several processes, each with a device of its own: gloo on CPUs, NCCL on GPUs.

    Reads what torchrun sets in the environment; without it, this is the only process.
    """

    spreads = True

    def __init__(self, device: str) -> None:
        super().__init__(device)
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            backend = "nccl" if device == "cuda" else register_gloo()
            if "RANK" in os.environ:
                dist.init_process_group(backend, timeout=TIMEOUT)
            else:
                dist.init_process_group(backend, rank=0, world_size=1, store=dist.HashStore())
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def share(self, batch: Batch) -> Batch:
        """Rows of the batch; ranks that would get fewer get rows without targets beside them."""
        num_rows = -(-len(batch.input_ids_BS) // self.world_size)
        rows = slice(self.rank * num_rows, (self.rank + 1) * num_rows)
        labels = batch.labels_BS[rows]
        lacking = num_rows - len(labels)
        if not lacking:
            return Batch(batch.input_ids_BS[rows], batch.attention_mask_BS[rows], labels)
        # A row of the batch itself, so that every token and mask is a valid one.
        last = slice(-1, None)
        return Batch(
            torch.cat([batch.input_ids_BS[rows], *[batch.input_ids_BS[last]] * lacking]),
            torch.cat([batch.attention_mask_BS[rows], *[batch.attention_mask_BS[last]] * lacking]),
            pad(labels, (0, 0, 0, lacking), value=IGNORED),
        )

    def total(self, value: float) -> float:
        summed = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return float(summed)

    def agreed(self, flag: bool) -> bool:
        return self.total(float(flag)) > 0

    def settle(self) -> None:
        if self.device == "cpu":  # NCCL lets go of tensors where the host waits for it
            settle_gloo()


def decoder_layers(model: nn.Module) -> Iterator[nn.Module]:
    """The layers of a transformer: the elements of its longest list of modules."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    yield from max(lists, key=len, default=nn.ModuleList())
