"""A program that tries to get out, in every way that is to be shut, and says what it could do.

It is judged as a model's program would be: what it finds open is no claim of ours.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_PLACES = {"harness", "home", "libraries", "python", "task.json"}
# Where else the loader of programs may lie, and nothing but that.
_OF_LOADER = {"lib", "lib64", "nix", "usr"}
_NAMES = {"HOME", "LANG", "LC_CTYPE", "LD_LIBRARY_PATH", "PWD", "PYTHONHASHSEED", "PYTHONHOME"}
# A process's number in namespaces of its own.
_FEW = 9
_NUM_FILES = 4096
_UNSHARE_USER = 0x10000000


def open_ways(memory_bytes: int) -> list[str]:
    """The ways that are open, in words; none where this process is contained."""
    ways = {
        "it sees files of this machine": _foreign_files,
        "it sees other processes": _processes,
        "it sees the environment": lambda: set(os.environ) - _NAMES,
        "it reads accounts": Path("/etc/passwd").read_bytes,
        "it sees packages": _packages,
        "it starts processes": _fork,
        "it starts threads": threading.Thread(target=int).start,
        "it holds files that are not its own": _other_files,
        "it opens a socket": socket.socket,
        "it makes namespaces": lambda: ctypes.CDLL(None).unshare(_UNSHARE_USER) == 0,
        "it has memory without end": lambda: mmap.mmap(-1, memory_bytes),
        "its limits can be raised": _raise_limits,
    }
    ways |= {f"it writes to {place}": _writes(place) for place in ("/", "/home", "/tmp", *sys.path)}
    return [words for words, way in ways.items() if _is_open(way)]


def _is_open(way: Callable[[], object]) -> bool:
    try:
        return way() not in (False, set(), [])
    except (OSError, RuntimeError, MemoryError, ValueError):
        return False


def _foreign_files() -> bool:
    seen = {path.name for path in Path("/").iterdir()}
    loaders = [path for name in _OF_LOADER for path in Path("/", name).rglob("*") if path.is_file()]
    return not seen <= _PLACES | _OF_LOADER or len(loaders) > 1 or any(Path("/home").iterdir())


def _processes() -> bool:
    return os.getpid() > _FEW or Path("/proc/1").exists()


def _packages() -> list[str]:
    folders = [Path(place) for place in sys.path if Path(place).is_dir()]
    return [str(path) for folder in folders for path in folder.glob("*-packages/*")]


def _other_files() -> bool:
    """Whether it holds more than three pipes, what it prints to among them, and nothing to read."""
    kinds = []
    for number in range(_NUM_FILES):
        try:
            kinds.append(os.fstat(number).st_mode)
        except OSError:
            continue
    pipes = [mode for mode in kinds if stat.S_ISFIFO(mode)]
    empty = [mode for mode in kinds if stat.S_ISCHR(mode)]
    return len(pipes) + len(empty) < len(kinds) or len(pipes) > 4 or len(empty) > 1


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _raise_limits() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _writes(place: str) -> Callable[[], object]:
    return lambda: (Path(place) / "written").touch()
