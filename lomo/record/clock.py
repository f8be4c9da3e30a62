"""The seconds of a run: by phase, which add up to the life of the process; and tokens over those of
its timed steps.

Definitions stand in docs/measurement.md. `load` begins when the process was created, so that
the time of imports is not lost.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import psutil

from lomo.record import schema as record
from lomo.record.schema import Throughput

# Of a training: first steps allocate and choose kernels, those of a resumed one again.
NUM_WARMUP_STEPS = 3

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


@dataclass(frozen=True)
class TimedStep:
    """One optimizer step on the clock; `num_padded_tokens` counts tokens with padding."""

    seconds: float
    num_tokens: int
    num_padded_tokens: int


def after_warmup(num_steps: int, num_warmup_steps: int, resumed_at: Sequence[int]) -> list[int]:
    """Indices of the steps that are timed: the first of each process warm up."""
    warm = {start + step for start in (0, *resumed_at) for step in range(num_warmup_steps)}
    return [index for index in range(num_steps) if index not in warm]


def summarise(
    steps: Sequence[TimedStep],
    *,
    num_warmup_steps: int,
    world_size: int,
    resumed_at: Sequence[int] = (),
) -> Throughput:
    """The throughput of `steps` after the warm-up. Raises ValueError with fewer than two left.

    Tokens without padding over seconds, both summed over the timed steps; the spread is the 10th
    and 90th percentile over steps. `resumed_at`: the steps after which another process went on,
    and warmed up as well.
    """
    chosen = after_warmup(len(steps), num_warmup_steps, resumed_at)
    timed = [steps[index] for index in chosen]
    if len(timed) < 2:
        raise ValueError(f"{len(timed)} timed steps give no spread; at least 2 are needed")
    tokens = sum(step.num_tokens for step in timed)
    padded = sum(step.num_padded_tokens for step in timed)
    rates = [step.num_tokens / step.seconds / world_size for step in timed]
    deciles = statistics.quantiles(rates, n=10, method="inclusive")
    return Throughput(
        tokens_per_s_per_device=tokens / sum(step.seconds for step in timed) / world_size,
        tokens_per_s_per_device_p10=deciles[0],
        tokens_per_s_per_device_p90=deciles[-1],
        step_s_median=statistics.median(step.seconds for step in timed),
        num_warmup_steps=len(steps) - len(timed),
        num_timed_steps=len(timed),
        num_tokens_timed=tokens,
        padding_fraction=1 - tokens / padded,
        world_size=world_size,
    )
