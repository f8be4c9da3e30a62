"""Ctrl-C as people press it: twice."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

INTERRUPTED = 128 + signal.SIGINT  # exit code, as a shell tells it
_PATIENCE_S = 3.0


def end_once() -> None:
    """From now on the first Ctrl-C ends this process in order, and the next do not disturb it.

    One that comes later than _PATIENCE_S after the first ends it at once. Locks and the warm
    process end with it, and jobs get a Ctrl-C of their own.
    """
    first_at: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        if first_at is None:
            first_at = time.monotonic()
            signal.default_int_handler(number, frame)
        elif time.monotonic() - first_at > _PATIENCE_S:
            os._exit(INTERRUPTED)

    signal.signal(signal.SIGINT, handle)
