"""What a process was not given more of: memory, processes, open files. One message for each."""

from __future__ import annotations

import errno
import os
import resource

from lomo.errors import UserError

_MEMORY = "raise the limit of memory (ulimit -v), or close other programs"
_PROCESSES = "raise the limit of processes (ulimit -u), or end some of this user's"
_FIXES = {
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.ENFILE: "close other programs: the machine has no more open files to give",
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: _MEMORY,
}
# How the loader, torch and Python's threads tell of it, each in its own way.
_WORDS = {
    "failed to map segment from shared object": _MEMORY,
    "cannot allocate memory": _MEMORY,
    "can't allocate memory": _MEMORY,
    "can't start new thread": _PROCESSES,
    "too many open files": _FIXES[errno.EMFILE],
}
# Tried: in 0.8 GB of addresses torch's import never ends, in 1 GB it fails, in 3 GB a run does
# well. With 12 open files, or 8 processes, Snakemake itself ends in a traceback.
_LEAST = (
    (resource.RLIMIT_AS, 10**9 + 1, _MEMORY),
    (resource.RLIMIT_NOFILE, 64, _FIXES[errno.EMFILE]),
    (resource.RLIMIT_NPROC, 16, _PROCESSES),
)


def shortage(error: BaseException) -> UserError | None:
    """What to tell where the system gave no more; None for other errors."""
    if isinstance(error, MemoryError):
        return _told("there is no more memory", _MEMORY)
    if isinstance(error, OSError):
        fix = _FIXES.get(error.errno or 0)
        # A pipe that is full says EAGAIN too, in other words.
        if fix is None or error.strerror != os.strerror(error.errno or 0):
            return None
        return _told(error.strerror, fix)
    text = str(error).lower()
    found = next((word for word in _WORDS if word in text), None)
    if found is None or not isinstance(error, ImportError | RuntimeError):
        return None
    return _told(found, _WORDS[found])


def _told(what: str, fix: str) -> UserError:
    return UserError(
        f"stopped short ({what[0].lower()}{what[1:]})",
        where="this process",
        fix=f"{fix}; then start again: what is finished is not repeated",
    )


def check_limits() -> None:
    """Raises UserError for limits under which nothing here runs; some libraries hang there."""
    for limit, least, fix in _LEAST:
        if limit == resource.RLIMIT_NPROC and os.geteuid() == 0:
            continue  # root's processes are not counted
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY and soft < least:
            raise _told(f"a limit of {soft:,} is too low, {least:,} is the least", fix)
