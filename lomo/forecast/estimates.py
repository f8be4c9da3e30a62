"""What each run of a plan will take, as a file: memory, time and disk, told before any launch.

A run that is known not to fit, or to have too few devices, is recorded and not launched.

How each number is made, and how far off it was found to be, stands in docs/plan.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from lomo.errors import UserError
from lomo.record.schema import Evidence, Record, Status, read_record, write_record
from lomo.specs import MeasureSpec, TrainSpec
from lomo.study.machine import GIB, RESERVE_GIB, Machine, Speed, host_bytes
from lomo.system.files import read_text
from lomo.system.strict import Strict

if TYPE_CHECKING:
    from lomo.record.clock import Clock


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
    host, all processes of the run. kept_bytes: best weights and checkpoints
    on disk while it trains. saved_bytes: the trained model's folder, which stays.
    """

    peak_bytes: int | None
    account: str | None
    fit: Fit
    host_bytes: int
    seconds: float | None
    kept_bytes: int
    saved_bytes: int = 0
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
        """Downloads, records, saved models, and the most that a run keeps while it trains."""
        kept = max((run.kept_bytes for run in self.runs.values()), default=0)
        saved = sum(run.saved_bytes for run in self.runs.values())
        return self.download_bytes + kept + saved + RUN_DISK_BYTES * len(self.runs)

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


# Set by the pipeline where the study says launch_anyway; jobs inherit it.
ANYWAY = "LOMO_LAUNCH_ANYWAY"


def record_without_launch(
    spec: TrainSpec | MeasureSpec, estimates: Path, folder: Path, clock: Clock, nodes: int = 1
) -> Record | None:
    """The record, written, of a run that this machine cannot do; None for one to be launched.

    predicted_oom: its predicted peak is more than the device has. unsupported: it asks for more
    GPUs than there are on its nodes. A prediction for another kind of device stops nothing, and
    nothing is stopped where the user wants it launched all the same, or nothing was estimated.
    Raises UserError for a file without estimates.
    """
    if os.environ.get(ANYWAY) or not estimates.exists():
        return None
    from lomo.record.provenance import read_provenance
    from lomo.run.execute import as_record, choose_device

    found = read_estimates(estimates)
    estimate = found.runs.get(spec.run_id)
    device = choose_device(spec.device)
    status: Status = "unsupported"
    message = _too_few(spec, device, nodes)
    if message is None and estimate is not None and found.machine.kind == device:
        status, message = "predicted_oom", _too_large(spec, estimate, device)
    if message is None:
        return None
    unlaunched = {"step": "it was not launched", "peak_before_bytes": "it was not launched"}
    evidence = Evidence(message=message, step=None, peak_before_bytes=None, missing=unlaunched)
    record = as_record(spec, status, evidence, read_provenance(spec, device), clock)
    write_record(folder / "record.json", record)
    return record


def forget_unlaunched(folders: Iterable[Path]) -> None:
    """Removes the records of runs that were not launched, so that the pipeline launches them."""
    for folder in folders:
        path = folder / "record.json"
        try:
            record = read_record(path)
        except UserError:  # none there, or one that the tables will refuse
            continue
        unlaunched = record.status == "unsupported" and record.model is None
        if record.status == "predicted_oom" or unlaunched:
            path.unlink()


def _device_bytes(device: str) -> int:
    if device == "cpu":
        return host_bytes()
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _too_few(spec: TrainSpec | MeasureSpec, device: str, nodes: int) -> str | None:
    """Why the machine has too few devices for a run; None if it has enough."""
    import torch

    num_devices = nodes * torch.cuda.device_count() if device == "cuda" else spec.num_devices
    if spec.num_devices <= num_devices:
        return None
    return f"not launched: it asks for {spec.num_devices} devices, {num_devices} are there"


def _too_large(spec: TrainSpec | MeasureSpec, estimate: Estimate, device: str) -> str | None:
    """Why a run cannot fit the device; None if it may."""
    held = held_bytes(estimate.peak_bytes, spec, "cpu" if device == "cpu" else "cuda")
    device_bytes = _device_bytes(device)
    if held is None or held <= device_bytes:
        return None
    return (
        f"not launched: the predicted peak of {held / GIB:.2f} GiB ({estimate.account}) is more "
        f"than the {device_bytes / GIB:.2f} GiB of the device"
    )
