"""Asked to end: Ctrl-C as people press it (twice), and SIGTERM as machines send it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALLED = 128  # what a shell adds to the number of the signal that ended a command
INTERRUPTED = _SIGNALLED + signal.SIGINT  # exit code, as a shell tells it
_PATIENCE_S = 3.0


class Interrupted(Exception):
    """The process was asked to end, and does so in order. `number` is the signal's."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell tells it: 130 for Ctrl-C, 143 for SIGTERM."""
        return _SIGNALLED + self.number


@dataclass
class Asked:
    """Whether this process was asked to end: the number of the signal, None until then."""

    number: int | None = None


def end_once() -> None:
    """From now on the first Ctrl-C ends this process in order, and the next do not disturb it.

    One that comes later than _PATIENCE_S after the first ends it at once. Locks and the warm
    process end with it, and jobs get a Ctrl-C of their own.
    """
    signal.signal(signal.SIGINT, _patient(lambda number: signal.default_int_handler(number, None)))


@contextmanager
def noted(then: Callable[[int], None] = lambda number: None) -> Iterator[Asked]:
    """Inside, the first SIGTERM or Ctrl-C is noted, and `then` is called with its number.

    Whoever sends one often sends several, to a process and to its group: those that follow within
    _PATIENCE_S are the same. A later one ends the process at once. A signal that is ignored stays
    so, and a thread other than the main one notes nothing.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int) -> None:
        asked.number = number
        then(number)

    handler = _patient(note)
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    try:
        yield asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _patient(first: Callable[[int], None]) -> Callable[[int, FrameType | None], None]:
    """A handler that calls `first` once, and ends the process where that has not helped."""
    first_at: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        if first_at is None:
            first_at = time.monotonic()
            first(number)
        elif time.monotonic() - first_at > _PATIENCE_S:
            os._exit(_SIGNALLED + number)

    return handle
