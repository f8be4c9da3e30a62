"""How many tensors of finished collectives a rank still holds after `settle`; rank 0 prints it."""

from __future__ import annotations

import weakref

import torch
import torch.distributed as dist

from lomo.engines import ranks
from lomo.engines.launch import leave

NUM_COLLECTIVES = 300


def main() -> None:
    """Gathers again and again, drops what it has gathered, and looks whether it is gone."""
    dist.init_process_group(ranks.register_gloo())
    held = 0
    for _ in range(NUM_COLLECTIVES):
        part = torch.ones(4096)
        whole = part.new_empty(part.numel() * dist.get_world_size())
        dist.all_gather_into_tensor(whole, part, async_op=True).wait()
        storages = [weakref.ref(tensor.untyped_storage()) for tensor in (part, whole)]
        del part, whole
        ranks.settle_gloo()
        held += sum(storage() is not None for storage in storages)
    total = torch.tensor(held)
    dist.all_reduce(total)
    if dist.get_rank() == 0:
        print(int(total))
    leave()


if __name__ == "__main__":
    main()
