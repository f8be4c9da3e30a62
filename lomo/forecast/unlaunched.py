"""A run that is known not to fit, or to have too few devices, is recorded and not launched."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.forecast.estimates import Estimate, held_bytes, read_estimates
from lomo.record.schema import Evidence, Record, Status, read_record, write_record
from lomo.specs import MeasureSpec, TrainSpec
from lomo.study.machine import GIB, host_bytes

if TYPE_CHECKING:
    from lomo.record.clock import Clock

# Set by the pipeline where the study says launch_anyway; jobs inherit it.
ANYWAY = "LOMO_LAUNCH_ANYWAY"


def record_without_launch(
    spec: TrainSpec | MeasureSpec, estimates: Path, folder: Path, clock: Clock
) -> Record | None:
    """The record, written, of a run that this machine cannot do; None for one to be launched.

    predicted_oom: its predicted peak is more than the device has. unsupported: it asks for more
    GPUs than there are. A prediction for another kind of device stops nothing, and nothing is
    stopped where the user wants it launched all the same, or nothing was estimated. Raises
    UserError for a file without estimates.
    """
    if os.environ.get(ANYWAY) or not estimates.exists():
        return None
    from lomo.record.provenance import read_provenance
    from lomo.run.execute import as_record, choose_device

    found = read_estimates(estimates)
    estimate = found.runs.get(spec.run_id)
    device = choose_device(spec.device)
    status: Status = "unsupported"
    message = _too_few(spec, device)
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


def _too_few(spec: TrainSpec | MeasureSpec, device: str) -> str | None:
    """Why the machine has too few devices for a run; None if it has enough."""
    import torch

    num_devices = torch.cuda.device_count() if device == "cuda" else spec.num_devices
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
