"""One writer a folder, also after a kill: the kernel drops the lock of a process that has died."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lomo.errors import UserError
from lomo.system.files import cannot_write

_ASKING_S = (0.01, 0.05)


@contextmanager
def exclusive(path: Path) -> Iterator[float]:
    """Holds the lock file `path`; gives the seconds that another process was waited for, or 0.

    A pipeline that was killed leaves its running jobs behind. The same job, started again, waits
    here for the old one, and finds its work done.
    """
    with _opened(path) as file:
        waited_s = 0.0
        if not _try(file):
            print(f"waiting for another process that works on {path.parent}", flush=True)
            started = time.perf_counter()
            fcntl.flock(file, fcntl.LOCK_EX)
            waited_s = time.perf_counter() - started
        yield waited_s


def hold(path: Path) -> IO[str]:
    """Holds the lock file `path` until the process ends.

    Raises UserError if another process holds it, or where it can't be made.
    """
    file = _opened(path)
    if not _try(file):
        file.close()
        raise UserError(
            "another snakemake is working on this study",
            where=str(path.parent),
            fix="wait for it, or stop it; a lock never outlives its process",
        )
    return file


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`. Nothing is made, and nobody is kept waiting."""
    try:
        file = path.open()
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        raise (cannot_write(path, error) or error) from None


def _try(file: IO[str]) -> bool:
    """Takes the lock, or gives up; somebody who only asks (`is_held`) has it for a moment."""
    for pause_s in (*_ASKING_S, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause_s is None:
                return False
            time.sleep(pause_s)
        else:
            break
    return True
