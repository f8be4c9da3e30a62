"""What each run of a plan will take, as a file: memory, time and disk, told before any launch.

How each number is made, and how far off it was found to be, stands in docs/plan.md.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from lomo.errors import UserError
from lomo.specs import MeasureSpec, TrainSpec
from lomo.study.machine import GIB, RESERVE_GIB, Machine, Speed
from lomo.system.files import read_text
from lomo.system.strict import Strict

Fit = Literal["fits", "tight", "does not fit", "too few devices", "unknown"]

RESERVE_BYTES = int(RESERVE_GIB * GIB)
# Record, history, scores of single examples, logs and the W&B run of one run.
RUN_DISK_BYTES = 150_000
# Beyond what is expected, before a scheduler may end a run: memory, time, and minutes at least.
_MEMORY_MARGIN, _TIME_MARGIN, _LEAST_MINUTES = 1.25, 3, 10
_UNKNOWN_MINUTES = 24 * 60
UNKNOWN = {"mem_mb": 4000, "runtime": _UNKNOWN_MINUTES}


class Estimate(Strict):
    """What one run will take. A null has its reason in `reason`.

    peak_bytes: of one device, the longest batch's step or scoring, whichever is more.
    account: how the step's peak was predicted (lomo.memory.predicted.predict). host_bytes: of the
    host, all processes of the run. kept_bytes: weights on disk while it trains.
    """

    peak_bytes: int | None
    account: str | None
    fit: Fit
    host_bytes: int
    seconds: float | None
    kept_bytes: int
    reason: str | None = None


class Estimates(Strict):
    """The estimates of a plan's runs, by run id, on one machine."""

    machine: Machine
    speed: Speed
    download_bytes: int = Field(description="weights that are fetched, once")
    runs: dict[str, Estimate]
    bases: dict[str, float | None] = Field(
        default_factory=dict,
        description="seconds of each base model's own training, by folder; null where unknown",
    )

    @property
    def disk_bytes(self) -> int:
        """Downloads, all records, and the largest weights that a run keeps while it trains."""
        kept = max((run.kept_bytes for run in self.runs.values()), default=0)
        return self.download_bytes + kept + RUN_DISK_BYTES * len(self.runs)

    def will_not_fit(self) -> list[str]:
        """Ids of the runs whose peak is more than a device has."""
        return self.of_fit("does not fit")

    def of_fit(self, fit: Fit) -> list[str]:
        """Ids of the runs of which that is told."""
        return [run_id for run_id, run in self.runs.items() if run.fit == fit]


def read_estimates(path: Path) -> Estimates:
    """The estimates in a file. Raises UserError where it is missing or no such file."""
    text = read_text(
        path, fix="make it: python -m lomo plan STUDY --out FILE, or snakemake --cores all plan"
    )
    try:
        return Estimates.model_validate_json(text)
    except ValidationError as error:
        raise UserError(
            f"holds no estimates: {str(error).splitlines()[0]}",
            where=str(path),
            fix="delete it: the pipeline makes it again, and repeats no run for that",
        ) from error


def held_bytes(
    peak_bytes: int | None, run: TrainSpec | MeasureSpec, kind: Literal["cpu", "cuda"]
) -> int | None:
    """What a run with this peak of a rank takes of one memory: ranks on a CPU share the host's."""
    if peak_bytes is None:
        return None
    return peak_bytes * run.num_devices if kind == "cpu" else peak_bytes


def fit_of(peak_bytes: int | None, device_bytes: int | None) -> Fit:
    """Whether a predicted peak fits a device. Tight: the context and workspaces may not."""
    if peak_bytes is None or device_bytes is None:
        return "unknown"
    if peak_bytes > device_bytes:
        return "does not fit"
    return "tight" if peak_bytes + RESERVE_BYTES > device_bytes else "fits"


def resources_of(path: Path, run_id: str, timeout_s: float | None) -> dict[str, int]:
    """What a scheduler is asked for: `mem_mb` of the host, `runtime` in minutes, with a margin.

    UNKNOWN where the file is not there yet or knows no such run: it is made when runs are launched.
    Raises UserError where it is broken.
    """
    try:
        estimate = _cached(path, path.stat().st_mtime_ns).runs.get(run_id)
    except FileNotFoundError:
        return UNKNOWN
    if estimate is None:
        return UNKNOWN
    minutes: float = _UNKNOWN_MINUTES
    if timeout_s is not None:
        minutes = timeout_s / 60 + _LEAST_MINUTES
    elif estimate.seconds is not None:
        minutes = max(_LEAST_MINUTES, _TIME_MARGIN * estimate.seconds / 60)
    memory = _MEMORY_MARGIN * estimate.host_bytes / 1e6
    return {"mem_mb": math.ceil(memory), "runtime": math.ceil(minutes)}


@lru_cache(maxsize=2)
def _cached(path: Path, _mtime_ns: int) -> Estimates:
    return read_estimates(path)
