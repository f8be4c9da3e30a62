"""The device of a record: what it is, what it computes with, and who else was on it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import psutil

from lomo.engines.launch import is_rank
from lomo.record.schema import Device


def printed(*command: str, timeout_s: float) -> str | None:
    """What a command prints, or None where it is not there, fails or takes too long."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            command, cwd=here, capture_output=True, text=True, check=True, timeout=timeout_s
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def read_device(device: str, num_devices: int = 1) -> Device:
    """Facts of the device, with the processes of others that are busy on it."""
    import torch

    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        tenants, reason = _cuda_tenants()
        return Device(
            kind="cuda",
            name=properties.name,
            num_devices=num_devices,
            memory_bytes=properties.total_memory,
            num_threads=torch.get_num_threads(),
            driver=_driver(),
            cpu_capability=None,
            co_tenants=tenants,
            missing={
                **({"co_tenants": reason} if tenants is None else {}),
                **({} if _driver() else {"driver": "nvidia-smi gave none"}),
                "cpu_capability": "the device is no CPU",
            },
        )
    return Device(
        kind="cpu",
        name=_cpu_name(),
        num_devices=num_devices,
        memory_bytes=psutil.virtual_memory().total,
        num_threads=torch.get_num_threads(),
        driver=None,
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        co_tenants=_cpu_tenants(),
        missing={"driver": "a CPU has none"},
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown CPU"


def _cpu_tenants() -> list[str]:
    """Other processes that kept more than a fifth of a core busy during the last 0.1 s."""
    family = _family()
    others = [process for process in psutil.process_iter(["name"]) if process.pid not in family]
    for process in others:
        _percent(process)
    psutil.cpu_percent(interval=0.1)
    return sorted(process.info["name"] for process in others if _percent(process) > 20)


def _family() -> set[int]:
    """The processes of this run: this one, those that started it, and the other ranks."""
    own = psutil.Process()
    family = {own.pid, *(parent.pid for parent in own.parents())}
    started_by = own.parent() if is_rank() else None
    if started_by is not None:
        family |= {rank.pid for rank in started_by.children(recursive=True)}
    return family


def _percent(process: psutil.Process) -> float:
    try:
        return float(process.cpu_percent())
    except psutil.Error:
        return 0.0


def _smi(query: str) -> list[str] | None:
    told = printed("nvidia-smi", query, "--format=csv,noheader", timeout_s=20)
    if told is None:
        return None
    return [line.strip() for line in told.splitlines() if line.strip()]


def _driver() -> str | None:
    lines = _smi("--query-gpu=driver_version")
    return lines[0] if lines else None


def _cuda_tenants() -> tuple[list[str] | None, str]:
    lines = _smi("--query-compute-apps=pid,process_name")
    if lines is None:
        return None, "nvidia-smi could not be run"
    family = {str(pid) for pid in _family()}
    return [line for line in lines if line.split(",")[0] not in family], ""
