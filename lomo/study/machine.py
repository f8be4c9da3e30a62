"""The machine that a study is planned for: found where we stand, or told. Imports no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

import psutil

from lomo.errors import UserError
from lomo.specs import Dtype
from lomo.system.strict import Strict

GIB = 2**30
# The CUDA context and workspaces, which no prediction has in it; see docs/prediction.md.
RESERVE_GIB = 1.0
# Limits of the control group, version 2 and 1: inside a container the host's memory is not ours.
_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class Machine(Strict):
    """Devices of one kind and the host around them; sizes in bytes.

    device_bytes: memory of one device, the host's for a CPU; None where it is not known.
    """

    kind: Literal["cpu", "cuda"]
    name: str
    num_devices: int
    device_bytes: int | None
    host_bytes: int
    origin: Literal["found", "given", "unknown"]


class Speed(Strict):
    """Operations a second that a machine sustains, by dtype; why they are not known, if so."""

    flops_per_s: dict[Dtype, float]
    source: str
    why_unknown: str | None = None


def budget_bytes(gib: float) -> int:
    """What of a card's GiB a step may take."""
    return int((gib - RESERVE_GIB) * GIB)


def find_machine(device: Literal["auto", "cpu", "cuda"]) -> Machine:
    """This machine as a study with that `device` will use it.

    A study for CUDA where no GPU is has a machine of origin "unknown": nothing is known to fit.
    """
    gpus = _gpus() if device != "cpu" else []
    host = host_bytes()
    if gpus:
        # Of unlike cards the smallest decides.
        name, size = min(gpus, key=lambda gpu: gpu[1] or 0)
        return Machine(
            kind="cuda",
            name=name,
            num_devices=len(gpus),
            device_bytes=size,
            host_bytes=host,
            origin="found",
        )
    if device == "cuda":
        return Machine(
            kind="cuda",
            name="an unknown GPU",
            num_devices=1,
            device_bytes=None,
            host_bytes=host,
            origin="unknown",
        )
    return Machine(
        kind="cpu", name="CPU", num_devices=1, device_bytes=host, host_bytes=host, origin="found"
    )


def given_machine(gpu_gib: float, num_gpus: int, name: str | None) -> Machine:
    """A machine that is not here, with `num_gpus` cards. Raises UserError for a size of nothing."""
    if not 0 < gpu_gib < float("inf"):
        raise UserError(f"a card of {gpu_gib:g} GiB", where="--gpu", allowed="above 0")
    if num_gpus < 1:
        raise UserError(f"{num_gpus} cards", where="--gpus", allowed="at least 1")
    return Machine(
        kind="cuda",
        name=name or f"a card of {gpu_gib:g} GiB",
        num_devices=num_gpus,
        device_bytes=int(gpu_gib * GIB),
        host_bytes=host_bytes(),
        origin="given",
    )


def host_bytes() -> int:
    """Memory of this host in bytes, or what its container may use of it."""
    total = int(psutil.virtual_memory().total)
    for path in _GROUP_LIMITS:
        try:
            return min(total, int(path.read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return total


def has_gpu() -> bool:
    """Whether the driver's tool is there, as on every machine with a card of NVIDIA's."""
    return shutil.which("nvidia-smi") is not None


def _gpus() -> list[tuple[str, int | None]]:
    """Name and bytes of each GPU that a process started from here would see."""
    if not has_gpu():
        return []
    query = "--query-gpu=index,uuid,memory.total,name"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ", 3) for line in done.stdout.splitlines() if line.count(", ") >= 3]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = None if visible is None else [name.strip() for name in visible.split(",")]
    return [
        (name.strip(), int(size) * 2**20 if size.isdigit() else None)  # "[N/A]" is a size, too
        for index, uuid, size, name in rows
        if wanted is None or index in wanted or any(w and uuid.startswith(w) for w in wanted)
    ]
