"""Energy that a GPU has used, by its own counter, asked through the driver's library NVML."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
# The counter moves some tens of milliseconds behind: shorter spans would be mostly its grain.
SHORTEST_S = 1.0


class NoEnergy(Exception):
    """There is no counter, or it can't be read; says why."""


class EnergyCounter:
    """The energy counter of one GPU. Raises NoEnergy, made or read, where there is none.

    uuid: of the device, as torch tells it (`get_device_properties(...).uuid`).
    """

    def __init__(self, uuid: str, load: Callable[[str], Any] = ctypes.CDLL) -> None:
        try:
            self._nvml = load(LIBRARY)
        except OSError as error:
            raise NoEnergy(f"NVML could not be loaded ({error})") from error
        self._check("nvmlInit_v2")
        self._device = ctypes.c_void_p()
        name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        self._check(
            "nvmlDeviceGetHandleByUUID",
            ctypes.c_char_p(name.encode()),
            ctypes.byref(self._device),
        )

    def read_j(self) -> float:
        """Joules since the driver was loaded."""
        used_mj = ctypes.c_ulonglong()
        self._check("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(used_mj))
        return used_mj.value / 1000

    def _check(self, function: str, *arguments: Any) -> None:
        try:
            code = getattr(self._nvml, function)(*arguments)
        except AttributeError as error:
            raise NoEnergy(f"this NVML has no {function}") from error
        if code != 0:
            raise NoEnergy(f"{function} answered with NVML error {code}")


class EnergyOfSteps:
    """The energy of a span of steps on a device ("cpu", "cuda"): `joules`, or `reason` why not."""

    def __init__(self, device: str) -> None:
        self.joules: float | None = None
        self.reason = "a CPU has no counter that is asked" if device == "cpu" else ""
        self._counter: EnergyCounter | None = None
        self._start_j = 0.0
        if device == "cuda":
            self._try(self._open)

    def start(self) -> None:
        """The span begins; the device has nothing to do."""
        self._try(self._begin)

    def stop(self, seconds: float) -> None:
        """The span of `seconds` is over, and the device has done all that it was given."""
        if not self.reason and seconds < SHORTEST_S:
            self.reason = f"the steps took {seconds:.2g} s, too short for the counter"
        self._try(self._end)

    def _open(self) -> None:
        import torch

        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self._counter = EnergyCounter(str(properties.uuid))

    def _begin(self) -> None:
        assert self._counter is not None
        self._start_j = self._counter.read_j()

    def _end(self) -> None:
        assert self._counter is not None
        self.joules = self._counter.read_j() - self._start_j

    def _try(self, action: Callable[[], None]) -> None:
        if self.reason:
            return
        try:
            action()
        except NoEnergy as error:
            self.reason = str(error)
