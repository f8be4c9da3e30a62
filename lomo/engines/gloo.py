"""Gloo with one worker thread, for ranks on CPUs.

Each of gloo's threads holds the tensors of its last collective until it gets a processor again,
which on a busy machine is later than the host goes on. Of torch's two threads one may be late for
long; one alone lets go of a collective before it takes the next, so after `settle` nothing is held.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import _disable_current_modes

_BACKEND = "gloo_in_order"


def _start(store: dist.Store, rank: int, size: int, timeout: timedelta) -> dist.ProcessGroupGloo:
    gloo: Any = dist.ProcessGroupGloo  # its options have no type stubs
    options = gloo._Options()
    options._devices = [gloo.create_default_device()]
    options._timeout = timeout
    options._threads = 1
    return dist.ProcessGroupGloo(store, rank, size, options)


def register() -> str:
    """The name of the backend, for `init_process_group`; makes it known to torch."""
    if _BACKEND not in dist.Backend.backend_list:
        dist.Backend.register_backend(_BACKEND, _start, devices="cpu")
    return _BACKEND


def settle() -> None:
    """Waits until no finished collective of this rank holds a tensor; all ranks have to call it."""
    with _disable_current_modes():  # what this takes is no part of a step
        # Not a barrier: it refers to the collectives before it until it is itself dropped.
        dist.all_reduce(torch.zeros(1))
