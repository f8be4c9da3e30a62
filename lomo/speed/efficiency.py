"""How much of a device the timed steps used: MFU, HFU, and the energy that its own counter tells,
asked through the driver's library NVML. Imports no torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from lomo.methods import peers
from lomo.record.schema import Efficiency, ModelFacts, Throughput
from lomo.specs import MeasureSpec
from lomo.speed.flops import (
    FORMULA,
    backwards_per_step,
    hardware_flops_per_step,
    model_flops_per_token,
)
from lomo.study.cards import PEAK_TABLE, peak_flops_per_s


def efficiency(
    spec: MeasureSpec,
    config: Mapping[str, Any],
    model: ModelFacts,
    throughput: Throughput,
    *,
    device_name: str,
    energy_j: float | None,
    why_no_energy: str,
) -> Efficiency:
    """MFU, HFU and energy of the timed steps; what could not be had is null, with the reason.

    config: the values of the model's Hugging Face config. energy_j: of this process's device over
    all timed steps.
    """
    missing: dict[str, str] = {}
    needed = executed = None
    counts: dict[str, Any] = {
        "num_parameters": model.num_parameters,
        "num_trainable_parameters": model.num_trainable_parameters,
        "sequence_length": spec.sequence_length,
    }
    try:
        needed = model_flops_per_token(config, **counts)
        executed = _executed(spec, config, counts, missing)
    except ValueError as error:
        missing["model_flops_per_token"] = missing["hardware_flops_per_step"] = str(error)
    peak = peak_flops_per_s(device_name, spec.dtype)
    if peak is None:
        missing["peak_flops_per_s"] = f"the table has no {spec.dtype} of {device_name}"
    speed = throughput.tokens_per_s_per_device
    tokens = spec.batch_size * spec.sequence_length  # of one device and step
    shares = {
        "mfu": (needed, "model_flops_per_token", 1),
        "hfu": (executed, "hardware_flops_per_step", tokens * throughput.world_size),
    }
    found: dict[str, float | None] = {}
    for name, (flops, source, num_tokens) in shares.items():
        found[name] = None if peak is None or flops is None else flops * speed / num_tokens / peak
        if found[name] is None:
            missing[name] = missing["peak_flops_per_s" if peak is None else source]
    step_j = None if energy_j is None else energy_j / throughput.num_timed_steps
    if step_j is None:
        missing["energy_j_per_step"] = missing["energy_j_per_token"] = why_no_energy
    return Efficiency(
        model_flops_per_token=needed,
        hardware_flops_per_step=executed,
        formula=FORMULA,
        peak_flops_per_s=peak,
        peak_table=PEAK_TABLE,
        energy_j_per_step=step_j,
        energy_j_per_token=None if step_j is None else step_j / tokens,
        missing=missing,
        **found,
    )


def _executed(
    spec: MeasureSpec, config: Mapping[str, Any], counts: dict[str, Any], missing: dict[str, str]
) -> float | None:
    num_backwards = backwards_per_step(spec.method, spec.hyper, spec.max_grad_norm)
    if spec.method in peers.MODULES or num_backwards is None:
        missing["hardware_flops_per_step"] = (
            "a peer takes passes of its own"
            if num_backwards is not None
            else "the Gram matrices of the first backward are not counted"
        )
        return None
    return hardware_flops_per_step(
        config,
        **counts,
        batch_size=spec.batch_size * spec.num_devices,
        activation_checkpointing=spec.activation_checkpointing,
        num_backwards=num_backwards,
        attention=spec.attention,
        head_recomputed=spec.head_loss == "fused",
    )


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
