"""What CUDA's caching allocator counted, to stand beside a ledger."""

from __future__ import annotations

import torch

from lomo.memory.ledger import Ledger

_FIELDS = {
    "allocated_peak_bytes": "allocated_bytes.all.peak",
    "reserved_peak_bytes": "reserved_bytes.all.peak",
    "active_peak_bytes": "active_bytes.all.peak",
    "num_alloc_retries": "num_alloc_retries",
    "num_ooms": "num_ooms",
}


def reset_cuda_peaks(device: torch.device) -> None:
    """Sets the peaks back to what is held now, and retries and OOMs to zero."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.reset_accumulated_memory_stats(device)


def read_cuda_peaks(device: torch.device) -> dict[str, int]:
    """Peaks in bytes, retries and OOMs as counts, since the reset.

    `driver_used_bytes` is what is in use on the whole device now, other processes included.
    """
    torch.cuda.synchronize(device)
    stats = torch.cuda.memory_stats(device)
    peaks = {name: int(stats.get(field, 0)) for name, field in _FIELDS.items()}
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return {**peaks, "driver_used_bytes": total_bytes - free_bytes}


def residual_bytes(peaks: dict[str, int], ledger: Ledger) -> int:
    """What the allocator's peak holds beyond the ledger's: parts + residual = the counter."""
    return peaks["allocated_peak_bytes"] - ledger.peak_bytes
