"""What others counted, to stand beside a ledger: CUDA's caching allocator, and the kernel for this
process (docs/measurement.md).
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from lomo.memory.measured.ledger import Ledger
from lomo.record.schema import AllocatorPeaks

# Sizes are rounded up to it by the allocator, and so by the ledger of a GPU.
GRANULE_BYTES = 512
_FIELDS = {
    "requested_peak_bytes": "requested_bytes.all.peak",
    "allocated_peak_bytes": "allocated_bytes.all.peak",
    "active_peak_bytes": "active_bytes.all.peak",
    "reserved_peak_bytes": "reserved_bytes.all.peak",
    "num_alloc_retries": "num_alloc_retries",
    "num_ooms": "num_ooms",
}
# The second is the name of older versions of torch.
_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def reset_cuda_peaks(device: torch.device) -> None:
    """Sets the peaks back to what is held now, and retries and OOMs to zero."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.reset_accumulated_memory_stats(device)


def read_cuda_peaks(device: torch.device) -> AllocatorPeaks:
    """Peaks in bytes, retries and OOMs as counts, since the reset.

    `driver_used_bytes` is what is in use on the whole device now, other processes included. What
    the allocator has reserved it gives back in a retry only, so without retries this is the peak.
    """
    torch.cuda.synchronize(device)
    stats = torch.cuda.memory_stats(device)
    peaks = {name: int(stats.get(field, 0)) for name, field in _FIELDS.items()}
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return AllocatorPeaks(**peaks, driver_used_bytes=total_bytes - free_bytes)


def residual_bytes(peaks: AllocatorPeaks, ledger: Ledger) -> int:
    """What the allocator's peak holds beyond the ledger's: parts + residual = the counter."""
    return peaks.allocated_peak_bytes - ledger.peak_bytes


def allocator_settings() -> str:
    """What the environment tells the allocator; "defaults" if nothing."""
    given = [f"{name}={os.environ[name]}" for name in _SETTINGS if os.environ.get(name)]
    return " ".join(given) or "defaults"


_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def reset_host_peak_rss() -> bool:
    """Sets the peak back to what is resident now; False where the kernel has no way to."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def host_peak_rss_bytes() -> int | None:
    """VmHWM in bytes: since the last reset, else since the process began; None if not Linux."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024  # the kernel writes "kB" and means KiB
    return None
