"""Limits of the kernel's on this process, set before a line of another's code runs in it."""

from __future__ import annotations

import resource

# Open files: Python's own, three pipes, and as many again.
_NUM_FILES = 32


def limit(cpu_s: int, memory_bytes: int) -> None:
    """At most this processor time and address space; one process, no file written, no core.

    Soft and hard are the same, so no handler is called and none can be raised again.
    """
    for what, most in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NPROC, 1),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _NUM_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (most, most))
