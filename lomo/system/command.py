"""What all commands share: what they take as JSON, how they tell, also while something takes long,
and how they end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO, TypeVar

from lomo.errors import UserError
from lomo.system.files import cannot_use, parse_json, read_text
from lomo.system.interrupts import INTERRUPTED, Interrupted
from lomo.system.shortage import shortage

NO = 3  # exit code of a question whose answer is no
QUIET = bool(os.environ.get("LOMO_QUIET"))
# Set where one line of progress stands for all on a terminal: a job's own would stand between.
SILENT = "LOMO_SILENT"
CLEAR = "\r\x1b[2K"


class Command(NamedTuple):
    """A command: what gives its parser the options, and what does it, with an exit code or None."""

    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int | None]


def tell(answer: tuple[str, int]) -> int:
    """Prints a command's answer; gives the exit code that stands beside it."""
    text, code = answer
    print(text)
    return code


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
    except (OSError, MemoryError, ImportError, RuntimeError) as error:
        if told := shortage(error):
            return refuse(told)
        told = cannot_use(error) if isinstance(error, OSError) else None
        if told is None:
            raise
        if getattr(error, "filename", None) is None:  # its output
            _silence(sys.stdout)
        return refuse(told)
    return code if isinstance(code, int) else 0


def refuse(error: UserError) -> int:
    """Tells the user of their mistake; gives the exit code for it."""
    try:
        print(f"error: {error}", file=sys.stderr, flush=True)
    except OSError:
        # A job's stderr is its log, which may lie on the disk that is full: stdout is the console.
        _silence(sys.stderr)
        with contextlib.suppress(OSError):
            print(f"error: {error}", flush=True)
    return 2


def _silence(stream: TextIO) -> None:
    """What waits in the stream's buffer would fail again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


Result = TypeVar("Result")

QUIET_S, AGAIN_S = 3.0, 30.0


@contextmanager
def waiting(what: str, *, shown: bool = True) -> Iterator[None]:
    """Inside, stderr says `what` from the third second on: on a terminal with the time that runs.

    Elsewhere it is a line then, and one each half minute.
    """
    if not shown:
        yield
        return
    done = threading.Event()
    live = sys.stderr.isatty()
    teller = threading.Thread(target=_tell, args=(what, done, live), daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(what: str, done: threading.Event, live: bool) -> None:
    started, pause = time.monotonic(), QUIET_S
    while not done.wait(pause):
        text = f"{what} ({time.monotonic() - started:.0f} s)"
        print(f"\r{text}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)
        pause = 1.0 if live else AGAIN_S
    if live:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def shown(
    arriving: Iterator[tuple[int, Result]],
    num: int,
    title: Callable[[Result], str],
    *,
    progress: bool,
) -> Iterator[tuple[int, Result]]:
    """Each result as it comes. On stderr a bar if it is a terminal, else a line now and then."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    live = console.is_terminal
    told_at = time.monotonic() + QUIET_S - AGAIN_S
    with Progress(console=console, disable=not (progress and live), transient=True) as bar:
        task = bar.add_task("", total=num)
        for count, (place, result) in enumerate(arriving, 1):
            bar.update(task, description=title(result))
            bar.advance(task)
            if progress and not live and time.monotonic() - told_at > AGAIN_S:
                told_at = time.monotonic()
                print(f"{count} of {num}: {title(result)}", file=sys.stderr, flush=True)
            yield place, result
