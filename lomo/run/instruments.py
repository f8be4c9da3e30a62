"""What is read around the timed steps of a measured run, and never within one."""

from __future__ import annotations

import torch

from lomo.memory.measured.counters import read_cuda_peaks, reset_cuda_peaks
from lomo.record.schema import AllocatorPeaks
from lomo.run.findings import synchronise
from lomo.speed.efficiency import EnergyOfSteps


class StepInstruments:
    """The allocator's peaks and the energy of a span of steps on `device` ("cpu", "cuda").

    peaks: of the span, None on a CPU. energy: its joules, or the reason why there are none.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.peaks: AllocatorPeaks | None = None
        self.energy = EnergyOfSteps(device)
        self._began = 0.0

    @property
    def device_name(self) -> str:
        """The name that the driver gives to the device."""
        return torch.cuda.get_device_name() if self.device == "cuda" else "a CPU"

    def start(self) -> None:
        """The span begins."""
        if self.device == "cuda":
            reset_cuda_peaks(torch.device("cuda"))
        self._began = synchronise(self.device)
        self.energy.start()

    def stop(self) -> None:
        """The span is over."""
        self.energy.stop(synchronise(self.device) - self._began)
        if self.device == "cuda":
            self.peaks = read_cuda_peaks(torch.device("cuda"))
