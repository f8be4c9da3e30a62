"""What a rank holds of a model before it is spread, and how random weights get their values."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from lomo.engines.ranks import decoder_layers
from lomo.engines.single import Draw
from lomo.methods.lora import Hyper, with_adapters
from lomo.model import weights
from lomo.model.registry import RANDOM_WEIGHTS
from lomo.model.weights import load_model, open_for_ranks

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "initializer_range": 0.05,
}


def folder_of(tmp_path: Path, **changes: object) -> str:
    """A model of random weights: its config, and the seed in it."""
    config = {**CONFIG, RANDOM_WEIGHTS: 3, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(tmp_path)


def opened(folder: str, rank: int) -> tuple[PreTrainedModel, Draw]:
    return open_for_ranks(folder, dtype="float32", attention="sdpa", device="cpu", rank=rank)


def test_only_rank_0_reads_weights(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = opened(str(model_folder), rank=0)
    monkeypatch.setattr(weights, "load_model", lambda *_, **__: pytest.fail("reads weights"))
    second, _ = opened(str(model_folder), rank=1)
    stored = load_file(model_folder / "model.safetensors")
    given = dict(first.named_parameters())
    assert all(torch.equal(given[name], tensor) for name, tensor in stored.items())
    assert [p.shape for p in second.parameters()] == [p.shape for p in first.parameters()]
    assert all(torch.equal(*pair) for pair in zip(first.buffers(), second.buffers(), strict=True))


@pytest.mark.parametrize("rank", [0, 1])
def test_weights_that_are_not_there_yet_take_no_memory(rank: int, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, hidden_size=1024, intermediate_size=4096, vocab_size=16_000)
    before = psutil.Process().memory_info().rss
    model, _ = opened(folder, rank)
    taken = psutil.Process().memory_info().rss - before
    assert sum(p.nbytes for p in model.parameters()) > 300e6
    assert taken < 30e6


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_random_weights_are_drawn_a_module_at_a_time(tied: bool, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, tie_word_embeddings=tied)
    model, draw = opened(folder, rank=0)
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    layers = list(decoder_layers(model))
    draw(layers[0])
    assert not any(p.isnan().any() for p in layers[0].parameters())
    assert all(p.isnan().all() for p in layers[1].parameters())
    kept = [p.clone() for p in layers[0].parameters()]
    draw(model)
    assert all(torch.equal(*pair) for pair in zip(kept, layers[0].parameters(), strict=True))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            assert (parameter == 1).all()  # norms
        else:
            assert float(parameter.detach().std()) == pytest.approx(0.05, rel=0.1)
    again, draw = opened(folder, rank=0)
    draw(next(iter(decoder_layers(again))))
    draw(again)
    assert all(torch.equal(*p) for p in zip(model.parameters(), again.parameters(), strict=True))


def test_adapters_keep_their_values(tmp_path: Path) -> None:
    model, draw = opened(folder_of(tmp_path), rank=0)
    adapted = with_adapters(model, Hyper())
    adapters = {n: p.clone() for n, p in adapted.named_parameters() if p.requires_grad}
    draw(adapted)
    drawn = dict(adapted.named_parameters())
    assert all(torch.equal(drawn[name], values) for name, values in adapters.items())
    assert not any(values.isnan().any() for values in drawn.values())


def test_one_process_draws_where_the_weights_stay(tmp_path: Path) -> None:
    loading = {"dtype": "bfloat16", "attention": "sdpa", "device": "cpu"}
    first, second = (load_model(folder_of(tmp_path), **loading) for _ in range(2))
    assert all(torch.equal(*p) for p in zip(first.parameters(), second.parameters(), strict=True))
    assert {p.dtype for p in first.parameters()} == {torch.bfloat16}
