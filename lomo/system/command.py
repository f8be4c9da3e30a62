"""What all commands share: how one tells, what it takes as JSON, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lomo.errors import UserError
from lomo.system.files import cannot_use, parse_json, read_text
from lomo.system.interrupts import INTERRUPTED, Interrupted

NO = 3  # exit code of a question whose answer is no
QUIET = bool(os.environ.get("LOMO_QUIET"))
# Set where one line of progress stands for all on a terminal: a job's own would stand between.
SILENT = "LOMO_SILENT"
CLEAR = "\r\x1b[2K"


class Command(NamedTuple):
    """A command: what gives its parser the options, and what does it, with an exit code or None."""

    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def say(line: str) -> None:
    """A line on stdout, at once."""
    print(f"{CLEAR if os.environ.get(SILENT) else ''}{line}", flush=True)


def say_aside(line: str) -> None:
    """A line on stderr, at once."""
    print(line, file=sys.stderr, flush=True)


def json_argument(text: str, where: str) -> dict[str, Any]:
    """The JSON object that an argument is, or the file that it names. Raises UserError."""
    try:
        data = parse_json(text if text.lstrip().startswith("{") else read_text(Path(text)))
    except ValueError as error:  # a UserError is one too
        raise UserError(f"is neither JSON nor a file with JSON: {error}", where=where) from error
    if not isinstance(data, dict):
        raise UserError("is not a JSON object", where=where)
    return data


def ended(command: Callable[[], object]) -> int:
    """Does what a command line asked for; the exit code that tells how it ended.

    A command may give one itself; one that gives None has done its work.
    """
    try:
        code = command()
        sys.stdout.flush()
    except UserError as error:
        return refuse(error)
    except Interrupted as interrupted:
        say_aside(str(interrupted))
        return interrupted.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        told = cannot_use(error)
        if told is None:
            raise
        if error.filename is None:  # its output; what waits in the buffer would fail again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return refuse(told)
    return code if isinstance(code, int) else 0


def refuse(error: UserError) -> int:
    """Tells the user of their mistake; gives the exit code for it."""
    try:
        print(f"error: {error}", file=sys.stderr, flush=True)
    except OSError:
        # A job's stderr is its log, which may lie on the disk that is full: stdout is the console.
        with contextlib.suppress(OSError):
            print(f"error: {error}", flush=True)
    return 2
