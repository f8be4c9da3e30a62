"""Peak resident memory of this process, as the kernel counts it."""

from __future__ import annotations

from pathlib import Path

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
