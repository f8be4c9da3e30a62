"""Peaks by batch, from few layers and few batches, against predictions of the whole."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen3Config

from lomo.errors import UserError
from lomo.memory.predicted.peaks import NUM_LAYERS, PeakByBatch
from lomo.memory.predicted.predict import predict
from lomo.model.architecture import Architecture
from lomo.specs import MeasureSpec
from tests.memory.predictions import METHODS, MIXTURE, SIZES, small, spec_of

_DEEP: dict[str, Any] = {**SIZES, "intermediate_size": 80, "num_hidden_layers": 9}
_GROUPED: dict[str, Any] = {**_DEEP, "num_key_value_heads": 2, "head_dim": 8}
DEEP = {
    "llama": LlamaConfig(**_DEEP, tie_word_embeddings=False),
    "tied": Qwen3Config(**_GROUPED, tie_word_embeddings=True),
    "grouped": MistralConfig(**_GROUPED),
}
BATCHES = (1, 2, 5)


pytestmark = pytest.mark.slow


def asked(method: str, num_gpus: int = 1, sequence_length: int = 16) -> MeasureSpec:
    return spec_of(
        method,
        dtype="bfloat16",
        attention="sdpa",
        activation_checkpointing=True,
        batch_size=1,
        sequence_length=sequence_length,
        engine="single" if num_gpus == 1 else "fsdp2",
        num_devices=num_gpus,
    )


def whole(architecture: Architecture, spec: MeasureSpec, batch_size: int) -> int:
    """The slow way: all layers, and this very batch."""
    asked_for = spec.model_copy(update={"batch_size": batch_size})
    return predict(architecture, asked_for).ledger.peak_bytes


def compare(architecture: Architecture, spec: MeasureSpec, *, unrolls: bool) -> None:
    peak = PeakByBatch(architecture, spec)
    told = {batch: peak(batch) for batch in BATCHES}
    assert told == {batch: whole(architecture, spec, batch) for batch in BATCHES}
    assert peak.unrolls is unrolls
    assert peak.account == "simulated"


def test_peaks_are_those_of_the_whole() -> None:
    compare(Architecture("deep", DEEP["llama"]), asked("lomo"), unrolls=True)


OTHERS = [
    ("tied", "sgd", 1),
    ("tied", "lomo", 2),
    ("grouped", "adalomo", 1),
    ("grouped", "lora", 2),
]


@pytest.mark.parametrize(
    ("family", "method", "num_gpus"),
    [*(("llama", method, num_gpus) for method in METHODS for num_gpus in (1, 2)), *OTHERS],
)
def test_of_every_method(family: str, method: str, num_gpus: int) -> None:
    # 13 tokens: sizes that no granule divides.
    spec = asked(method, num_gpus, sequence_length=13)
    compare(Architecture("deep", DEEP[family]), spec, unrolls=True)


@pytest.mark.parametrize("family", ["opt", "llama"])
def test_other_models_are_simulated_whole(family: str) -> None:
    compare(small(family), asked("lomo"), unrolls=False)


def test_layers_of_two_kinds_are_simulated_whole() -> None:
    kinds = ["sliding_attention", "full_attention"] * 4 + ["full_attention"]
    config = Qwen3Config(**_GROUPED, use_sliding_window=True, sliding_window=8, layer_types=kinds)
    assert not PeakByBatch(Architecture("two kinds", config), asked("lomo")).unrolls


def test_few_simulations_tell_all(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated: list[tuple[int, int]] = []

    def counted(architecture: Architecture, spec: MeasureSpec) -> Any:
        simulated.append((architecture.config.num_hidden_layers, spec.batch_size))
        return predict(architecture, spec)

    monkeypatch.setattr("lomo.memory.predicted.peaks.predict", counted)
    peak = PeakByBatch(Architecture("deep", DEEP["llama"]), asked("lomo"))
    peaks = [peak(batch) for batch in range(1, 100)]
    assert sorted(peaks) == peaks
    few, more = NUM_LAYERS, NUM_LAYERS + 1
    assert sorted(simulated) == [(few, 1), (few, 2), (few, 3), (more, 1), (more, 2), (more, 3)]


def test_layers_that_turn_out_to_differ_are_simulated_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lomo.memory.predicted.peaks.insertions", lambda *_: None)
    compare(Architecture("deep", DEEP["llama"]), asked("lomo"), unrolls=False)


def test_what_cannot_be_simulated_says_so() -> None:
    architecture = Architecture("mixture", MIXTURE)
    spec = asked("lomo").model_copy(update={"dtype": "float32"})
    peak = PeakByBatch(architecture, spec)
    assert [peak(batch) for batch in (1, 5)] == [whole(architecture, spec, b) for b in (1, 5)]
    assert peak.account == "closed_form"


def test_more_cards_than_rows() -> None:
    with pytest.raises(UserError, match="64 devices can't share"):
        PeakByBatch(Architecture("deep", DEEP["llama"]), asked("lomo", 64))(1)
