"""Words on stderr while something takes longer than a moment; nothing of it in the answer."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

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
