"""A measured run on CUDA: what its record says, with torch's CUDA calls made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from lomo.engines.single import training_step
from lomo.memory.measured import counters
from lomo.memory.measured.ledger import Ledger
from lomo.memory.measured.meter import StorageMeter
from lomo.memory.predicted.fake import fake_tensors
from lomo.methods import prepare
from lomo.model import weights
from lomo.model.registry import RANDOM_WEIGHTS, registry
from lomo.record.clock import Clock
from lomo.record.schema import AllocatorPeaks, CudaMemory
from lomo.run import execute as run
from lomo.run import instruments, measure
from lomo.run import prepare as preparation
from lomo.run.prepare import prepare_model
from lomo.speed.efficiency import EnergyOfSteps
from lomo.tasks.batches import random_batch
from tests.memory.predictions import spec_of

MIB = 2**20
SIZES = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
}


class FakeCuda:
    """The calls to torch.cuda that the counters make, and the order in which they came."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.stats = {
            "requested_bytes.all.peak": 90,
            "allocated_bytes.all.peak": 100 * MIB,
            "active_bytes.all.peak": 110 * MIB,
            "reserved_bytes.all.peak": 120 * MIB,
            "num_alloc_retries": 2,
            "num_ooms": 1,
        }

    def synchronize(self, device: object = None) -> None:
        self.calls.append("synchronize")

    def reset_peak_memory_stats(self, device: object) -> None:
        self.calls.append("reset_peaks")

    def reset_accumulated_memory_stats(self, device: object) -> None:
        self.calls.append("reset_counts")

    def memory_stats(self, device: object) -> dict[str, int]:
        self.calls.append("read")
        return self.stats

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return 300 * MIB, 1000 * MIB


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    for name in (
        "synchronize",
        "reset_peak_memory_stats",
        "reset_accumulated_memory_stats",
        "memory_stats",
        "mem_get_info",
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    return fake


def test_peaks_are_read_by_their_names(fake_cuda: FakeCuda) -> None:
    peaks = counters.read_cuda_peaks(torch.device("cuda"))
    assert peaks == AllocatorPeaks(
        requested_peak_bytes=90,
        allocated_peak_bytes=100 * MIB,
        active_peak_bytes=110 * MIB,
        reserved_peak_bytes=120 * MIB,
        num_alloc_retries=2,
        num_ooms=1,
        driver_used_bytes=700 * MIB,
    )
    ledger = Ledger(99 * MIB, "forward", {}, {}, {}, {}, 0, [])
    assert counters.residual_bytes(peaks, ledger) == MIB


def test_the_span_resets_before_it_and_reads_after_it(
    fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruments, "EnergyOfSteps", lambda _: EnergyOfSteps("cpu"))
    span = instruments.StepInstruments("cuda")
    span.start()
    assert fake_cuda.calls == ["synchronize", "reset_peaks", "reset_counts", "synchronize"]
    fake_cuda.calls.append("steps")
    span.stop()
    assert fake_cuda.calls[4:] == ["steps", "synchronize", "synchronize", "read"]
    assert span.peaks is not None and span.peaks.num_alloc_retries == 2


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "defaults"),
        (
            {"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
            "PYTORCH_ALLOC_CONF=expandable_segments:True",
        ),
    ],
)
def test_settings_of_the_allocator_are_told(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert counters.allocator_settings() == expected


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for a device: values that it reads of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func)
        if name.startswith(("aten._local_scalar_dense", "aten.equal", "aten.is_nonzero")):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["lomo", "adalomo"])
@pytest.mark.parametrize(("attention", "num_reads"), [("eager", 1), ("sdpa", 2)])
def test_a_step_waits_for_the_device_once_at_its_end(
    method: str, attention: str, num_reads: int
) -> None:
    """And once before it has given it anything: sdpa's mask is asked whether it hides something."""
    model: Any = AutoModelForCausalLM.from_config(
        LlamaConfig(**SIZES), attn_implementation=attention
    )
    model.config.use_cache = False
    prepared = prepare(method)(model, spec_of(method), lambda adapted: adapted)
    batch = random_batch(vocabulary=100, batch_size=2, sequence_length=8, seed=0, device="cpu")
    optimizers = [optimizer for optimizer, _ in prepared.optimizers]
    training_step(prepared.model, optimizers, [batch], max_grad_norm=None)
    with HostReads() as reads:
        training_step(prepared.model, optimizers, [batch], max_grad_norm=None)
    assert len(reads.seen) == num_reads, reads.seen


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 344.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_model_that_does_not_fit_is_a_result(
    error: RuntimeError, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(preparation, "load_model", too_large)
    spec = spec_of("lomo", model_path=str(model_folder))
    record = run.execute(spec, tmp_path, Clock())
    assert record.status == "oom" and record.evidence is not None
    assert record.evidence.step is None and record.model is None
    assert record.evidence.message == str(error)
    assert "efficiency" in record.missing


@pytest.fixture
def real_cuda() -> Iterator[torch.device]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    yield torch.device("cuda", torch.cuda.current_device())


def test_timed_and_metered_steps_have_one_peak(
    real_cuda: torch.device, model_folder: Path, tmp_path: Path
) -> None:
    spec = spec_of("lomo", device="cuda", dtype="bfloat16", model_path=str(model_folder))
    record = run.execute(spec, tmp_path, Clock())
    assert record.memory is not None and record.memory.cuda is not None
    assert record.memory.cuda.peaks_agree
    assert record.memory.peak_bytes == record.memory.cuda.metered.allocated_peak_bytes


@pytest.mark.parametrize(("metered", "agree"), [(1000, True), (1010, True), (1011, False)])
def test_peaks_agree_within_a_percent(metered: int, agree: bool) -> None:
    timed = AllocatorPeaks(**dict.fromkeys(AllocatorPeaks.model_fields.keys() - {"missing"}, 1000))
    both = CudaMemory(
        metered=timed.model_copy(update={"allocated_peak_bytes": metered}),
        timed=timed,
        allocator_settings="defaults",
    )
    assert both.peaks_agree is agree


@pytest.mark.parametrize(("device", "transient"), [("cpu", 64 * MIB), ("cuda", 1024 * MIB)])
def test_a_transient_within_a_step_is_in_every_peak(
    device: str,
    transient: int,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is taken and let go in the middle of each forward, the timed ones and the metered."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    spec = spec_of("lomo", device=device, dtype="bfloat16", model_path=str(model_folder))
    plain = run.execute(spec, tmp_path / "plain", Clock()).memory

    def with_transient(*arguments: Any, **options: Any) -> Any:
        prepared = prepare_model(*arguments, **options)

        def take(*_: Any) -> None:
            torch.empty(transient, dtype=torch.uint8, device=device)

        prepared.model.lm_head.register_forward_pre_hook(take)
        return prepared

    monkeypatch.setattr(measure, "prepare_model", with_transient)
    more = run.execute(spec, tmp_path / "more", Clock()).memory
    assert plain is not None and more is not None
    # It does not come on top of the plain peak, which is at another moment.
    assert transient < more.peak_bytes < plain.peak_bytes + transient
    assert more.peak_phase == "forward"
    assert more.at_peak.activations_bytes >= transient
    if more.cuda is not None:
        assert more.cuda.timed.allocated_peak_bytes > transient
        assert more.cuda.peaks_agree


def test_random_weights_of_65b_are_made_in_their_own_bytes() -> None:
    """Without bytes: no copy in fp32, none of a second tensor, whatever initialises them."""
    entry = registry()["llama-65b"]
    assert entry.architecture is not None
    config = AutoConfig.for_model(**entry.architecture)
    with fake_tensors(as_device="cpu"):
        fake_mode = torch.empty(1).fake_mode  # type: ignore[attr-defined]
        with StorageMeter(torch.device("cpu"), fake_mode=fake_mode) as meter:
            model = weights._random_model(
                config, 0, torch.device("cpu"), weights._kind("bfloat16", "sdpa")
            )
    held = sum(parameter.nbytes for parameter in model.parameters())
    assert held == 2 * 65_285_660_672
    assert meter.peak.total_bytes - held < MIB


def test_random_weights_are_on_the_device_from_the_start(
    real_cuda: torch.device, tmp_path: Path
) -> None:
    config = {"model_type": "llama", **SIZES, RANDOM_WEIGHTS: 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = weights.load_model(str(tmp_path), dtype="bfloat16", attention="sdpa", device="cuda")
    assert {parameter.device for parameter in model.parameters()} == {real_cuda}
