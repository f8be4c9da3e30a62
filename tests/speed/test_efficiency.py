"""MFU, HFU and energy of timed steps, with NVML made up."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
import torch

from lomo.record.schema import ModelFacts, Throughput
from lomo.speed import efficiency as module
from lomo.speed.efficiency import EnergyCounter, EnergyOfSteps, NoEnergy, efficiency
from tests.memory.predictions import spec_of

SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}
FACTS = ModelFacts(
    name="small",
    architecture="llama",
    num_parameters=100_000,
    num_trainable_parameters=100_000,
    parameters_bytes=200_000,
    largest_parameter_bytes=6400,
    tied_embeddings=False,
    dtype="bfloat16",
    weights_sha256="0",
)
SPEED = Throughput(
    tokens_per_s_per_device=1e6,
    tokens_per_s_per_device_p10=1e6,
    tokens_per_s_per_device_p90=1e6,
    step_s_median=32e-6,
    num_warmup_steps=1,
    num_timed_steps=4,
    num_tokens_timed=128,
    padding_fraction=0.0,
    world_size=1,
)


class FakeNvml:
    """NVML's three functions; each reading is 2 kJ above the last."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.used_mj = 5_000_000
        self.uuid = b""

    def nvmlInit_v2(self) -> int:  # noqa: N802 (NVML's own name)
        return self.codes.get("init", 0)

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:  # noqa: N802
        self.uuid = uuid.value
        return self.codes.get("handle", 0)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: Any, used: Any) -> int:  # noqa: N802
        self.used_mj += 2_000_000
        used._obj.value = self.used_mj
        return self.codes.get("energy", 0)


def test_energy_is_the_counters_difference_in_joules() -> None:
    library = FakeNvml()
    counter = EnergyCounter("abc", load=lambda _: library)
    assert library.uuid == b"GPU-abc"
    assert counter.read_j() == 7000.0
    assert counter.read_j() == 9000.0


@pytest.mark.parametrize("failing", ["init", "handle", "energy"])
def test_a_counter_that_fails_says_where(failing: str) -> None:
    library = FakeNvml(**{failing: 3})
    with pytest.raises(NoEnergy, match="answered with NVML error 3"):
        EnergyCounter("abc", load=lambda _: library).read_j()


def test_without_the_library_there_is_a_reason() -> None:
    with pytest.raises(NoEnergy, match="NVML could not be loaded"):
        EnergyCounter("abc", load=_no_library)


def _no_library(name: str) -> ctypes.CDLL:
    raise OSError(f"{name}: no such file")


@pytest.mark.parametrize(("seconds", "joules"), [(2.0, 2000.0), (0.5, None)])
def test_a_span_has_energy_or_a_reason(
    seconds: float, joules: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        uuid = "abc"

    library = FakeNvml()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(
        module, "EnergyCounter", lambda uuid: EnergyCounter(uuid, lambda _: library)
    )
    span = EnergyOfSteps("cuda")
    span.start()
    span.stop(seconds)
    assert span.joules == joules
    assert bool(span.reason) == (joules is None)


def test_shares_of_the_peak_by_hand() -> None:
    spec = spec_of("lomo", dtype="bfloat16", batch_size=2, sequence_length=16)
    found = efficiency(
        spec,
        SIZES,
        FACTS,
        SPEED,
        device_name="NVIDIA H200",
        energy_j=40.0,
        why_no_energy="",
    )
    per_token = 6 * (100_000 - 100 * 32) + 12 * 2 * 32 * 16
    assert found.model_flops_per_token == per_token
    assert found.mfu == pytest.approx(per_token * 1e6 / 989.4e12)
    # Eager attention, nothing recomputed, one backward: the same operations.
    assert found.hfu == pytest.approx(found.mfu)
    assert found.hardware_flops_per_step == per_token * 32
    assert found.energy_j_per_step == 10.0
    assert found.energy_j_per_token == 10.0 / 32


def test_shares_of_several_devices_are_of_each() -> None:
    both = SPEED.model_copy(update={"world_size": 4})
    spec = spec_of("lomo", dtype="bfloat16", engine="fsdp2", num_devices=4)
    arguments: Any = {"device_name": "NVIDIA H200", "energy_j": None, "why_no_energy": "none"}
    found = efficiency(spec, SIZES, FACTS, both, **arguments)
    assert found.hfu == pytest.approx(found.mfu)


@pytest.mark.parametrize(
    ("change", "null"),
    [
        ({"device_name": "a CPU"}, {"peak_flops_per_s", "mfu", "hfu"}),
        ({"spec": {"method": "floor"}}, {"hardware_flops_per_step", "hfu"}),
        (
            {"spec": {"max_grad_norm": 1.0, "hyper": {"update": "gemm"}}},
            {"hardware_flops_per_step", "hfu"},
        ),
        (
            {"config": {**SIZES, "num_local_experts": 8}},
            {"model_flops_per_token", "hardware_flops_per_step", "mfu", "hfu"},
        ),
        ({"energy_j": None}, {"energy_j_per_step", "energy_j_per_token"}),
    ],
)
def test_what_is_not_known_is_null_with_a_reason(change: dict[str, Any], null: set[str]) -> None:
    spec = spec_of("lomo", dtype="bfloat16").model_copy(update=change.get("spec", {}))
    found = efficiency(
        spec,
        change.get("config", SIZES),
        FACTS,
        SPEED,
        device_name=change.get("device_name", "NVIDIA H200"),
        energy_j=change.get("energy_j", 1.0),
        why_no_energy="no counter",
    )
    assert set(found.missing) == null
