"""What a contained program sees of this machine: one Python, its own library, what those load."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# Where they lie inside: no path of this machine is told.
HOME = "/python"
EXECUTABLE = f"{HOME}/bin/python3"
LIBRARIES = "/libraries"

# Folders in the standard library's that hold what others wrote.
_NOT_STANDARD = ("site-packages", "dist-packages")
# Modules of screens, networks and databases can't be imported: what they load is left out.
_LEFT_OUT = re.compile(
    r"(_tkinter|_curses\w*|readline|_ssl|nis|_dbm|_gdbm|_sqlite3|ossaudiodev|spwd)\."
)


@dataclass(frozen=True)
class Interpreter:
    """Files and folders of this machine, each beside its place inside."""

    executable: Path
    standard: tuple[Path, str]
    libraries: tuple[tuple[Path, str], ...]
    # Folders inside that are covered by an empty one.
    covered: tuple[str, ...]


@cache
def found() -> Interpreter:
    """The Python that runs this, without the virtual environment it may be in.

    Raises OSError where `ldd`, which tells what a program loads, can't be run.
    """
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    standard = Path(sysconfig.get_path("stdlib"))
    inside = f"{HOME}/{standard.relative_to(sys.base_prefix)}"
    modules = [
        path
        for path in sorted(_folder_of_modules(standard).glob("*.so"))
        if not _LEFT_OUT.match(path.name)
    ]
    return Interpreter(
        executable,
        (standard, inside),
        tuple(_loaded([executable, *modules])),
        tuple(f"{inside}/{name}" for name in _NOT_STANDARD if (standard / name).is_dir()),
    )


def _folder_of_modules(standard: Path) -> Path:
    return Path(sysconfig.get_config_var("DESTSHARED") or standard / "lib-dynload")


def _loaded(programs: list[Path]) -> list[tuple[Path, str]]:
    """Libraries that the dynamic loader finds for `programs`; and the loader, by its path."""
    told = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True).stdout
    by_name = dict(re.findall(r"^\s+([^\s/]+) => (/\S+) \(", told, re.MULTILINE))
    by_path = dict(re.findall(r"^\s+(/\S+) => (/\S+) \(", told, re.MULTILINE))
    by_path |= {path: path for path in re.findall(r"^\s+(/\S+) \(", told, re.MULTILINE)}
    libraries = [(Path(path), f"{LIBRARIES}/{name}") for name, path in sorted(by_name.items())]
    return libraries + [(Path(path), place) for place, path in sorted(by_path.items())]
