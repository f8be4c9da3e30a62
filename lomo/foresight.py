"""A run that is known not to fit is recorded as predicted_oom, and not launched."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.estimates import Estimate, read_estimates
from lomo.machine import GIB, host_bytes
from lomo.record import Evidence, Record, read_record, write_record
from lomo.specs import MeasureSpec, TrainSpec

if TYPE_CHECKING:
    from lomo.clock import Clock

# Set by the pipeline where the study says launch_anyway; jobs inherit it.
ANYWAY = "LOMO_LAUNCH_ANYWAY"


def record_without_launch(
    spec: TrainSpec | MeasureSpec, estimates: Path, folder: Path, clock: Clock
) -> Record | None:
    """The record of a run whose predicted peak is more than this device has, written; else None.

    Also None where the user wants it launched all the same, or the prediction is of another kind of
    device. Raises UserError for a file without estimates.
    """
    if os.environ.get(ANYWAY):
        return None
    from lomo.provenance import read_provenance
    from lomo.run import as_record, choose_device

    found = read_estimates(estimates)
    estimate = found.runs.get(spec.run_id)
    device = choose_device(spec.device, spec.num_devices)
    if estimate is None or estimate.peak_bytes is None or found.machine.kind != device:
        return None
    device_bytes = _device_bytes(device)
    if estimate.peak_bytes <= device_bytes:
        return None
    provenance = read_provenance(spec, device)
    record = as_record(spec, "predicted_oom", _evidence(estimate, device_bytes), provenance, clock)
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
        if record.status == "predicted_oom":
            path.unlink()


def _device_bytes(device: str) -> int:
    if device == "cpu":
        return host_bytes()
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def _evidence(estimate: Estimate, device_bytes: int) -> Evidence:
    assert estimate.peak_bytes is not None
    return Evidence(
        message=f"not launched: the predicted peak of {estimate.peak_bytes / GIB:.2f} GiB "
        f"({estimate.account}) is more than the {device_bytes / GIB:.2f} GiB of the device",
        step=None,
        peak_before_bytes=None,
        missing={"step": "it was not launched", "peak_before_bytes": "it was not launched"},
    )
