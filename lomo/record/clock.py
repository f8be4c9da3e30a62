"""The clock of a run: wall seconds by phase, which add up to the life of the process.

Definitions stand in docs/measurement.md. `load` begins when the process was created, so that
the time of imports is not lost.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

import psutil

from lomo.record import schema as record

Phase = Literal["load", "compile", "train", "evaluate", "save"]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Clock:
    """Counts seconds for one phase at a time. An inner phase pauses the outer one."""

    def __init__(self, *, waited_s: float = 0.0, started_at: float | None = None) -> None:
        """`waited_s`: seconds that the process waited for another before its own work.

        `started_at`: seconds since the epoch when the run began, if another process began it.
        """
        age_s = process_age_s() - waited_s if started_at is None else time.time() - started_at
        self._started = time.perf_counter() - age_s
        self._mark = self._started
        self._stack: list[Phase | None] = ["load"]
        self._seconds: dict[Phase | None, float] = {}

    def seconds(self, phase: Phase) -> float:
        """Seconds of `phase` so far."""
        self._charge()
        return self._seconds.get(phase, 0.0)

    @property
    def wall_s(self) -> float:
        """Seconds since the process was created, and those of earlier ones that are carried on."""
        return time.perf_counter() - self._started

    def carry_on(self, before: record.Clock) -> None:
        """Counts on from the clock of an earlier process, which did the work so far."""
        self._charge()
        for phase in PHASES:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + getattr(before, f"{phase}_s")
        self._seconds[None] = self._seconds.get(None, 0.0) + before.other_s
        self._started -= before.wall_s

    def loaded(self) -> None:
        """Ends the load phase that began with the process."""
        self._charge()
        self._stack[0] = None

    @contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Charges what happens inside to `phase`."""
        self._charge()
        self._stack.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def _charge(self) -> None:
        now = time.perf_counter()
        current = self._stack[-1]
        self._seconds[current] = self._seconds.get(current, 0.0) + now - self._mark
        self._mark = now

    def read(self) -> record.Clock:
        """All phases as the record holds them; `other_s` is what no phase claimed."""
        self._charge()
        return record.Clock(
            **{f"{phase}_s": self._seconds.get(phase, 0.0) for phase in PHASES},
            other_s=self._seconds.get(None, 0.0),
            wall_s=self._mark - self._started,
        )


def process_age_s() -> float:
    """Seconds since this process was created, to 1/100 s where the kernel says so."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started_s
    except (OSError, AttributeError):
        # psutil counts from the boot time in whole seconds on Linux; elsewhere it is exact.
        return time.time() - psutil.Process().create_time()
