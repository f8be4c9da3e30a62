"""The clock of a run: wall seconds by phase, which add up to the life of the process.

Definitions stand in docs/measurement.md. `load` begins when the process was created, so that
the time of imports is not lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import psutil

from lomo import record

Phase = Literal["load", "compile", "train", "evaluate", "save"]


class Clock:
    """Counts seconds for one phase at a time. An inner phase pauses the outer one."""

    def __init__(self) -> None:
        since_creation = time.time() - psutil.Process().create_time()
        self._started = time.perf_counter() - since_creation
        self._mark = self._started
        self._stack: list[Phase | None] = ["load"]
        self._seconds: dict[Phase | None, float] = {}

    def seconds(self, phase: Phase) -> float:
        """Seconds of `phase` so far."""
        self._charge()
        return self._seconds.get(phase, 0.0)

    @property
    def wall_s(self) -> float:
        """Seconds since the process was created."""
        return time.perf_counter() - self._started

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
        phases: tuple[Phase, ...] = ("load", "compile", "train", "evaluate", "save")
        return record.Clock(
            **{f"{phase}_s": self._seconds.get(phase, 0.0) for phase in phases},
            other_s=self._seconds.get(None, 0.0),
            wall_s=sum(self._seconds.values()),
        )
