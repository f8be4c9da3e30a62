"""Parameters of public models, counted from their configs, as their publishers tell them."""

from __future__ import annotations

from typing import Any

import pytest

from lomo.model.architecture import Architecture, count_parameters, entry_architecture
from lomo.model.registry import ModelEntry

LLAMA = {"model_type": "llama", "max_position_embeddings": 2048}


def llama(width: int, layers: int, heads: int, shared: int, inner: int, **more: Any) -> Any:
    return {
        **LLAMA,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "intermediate_size": inner,
        "tie_word_embeddings": False,
        **more,
    }


def gpt2(width: int, heads: int, layers: int) -> Any:
    sizes = {"n_embd": width, "n_head": heads, "n_layer": layers, "n_positions": 1024}
    return {"model_type": "gpt2", "vocab_size": 50257, **sizes}


def opt(width: int, layers: int, heads: int) -> Any:
    return {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "ffn_dim": 4 * width,
        "max_position_embeddings": 2048,
    }


SMOL = {"vocab_size": 49152, "tie_word_embeddings": True}
LLAMA3 = {"vocab_size": 128256, "tie_word_embeddings": True}
QWEN = {"model_type": "qwen2", "vocab_size": 151936, "tie_word_embeddings": True}
PUBLIC: dict[str, tuple[int, dict[str, Any]]] = {
    "opt-125m": (125_239_296, opt(768, 12, 12)),
    "opt-2.7b": (2_651_596_800, opt(2560, 32, 32)),
    "gpt2": (124_439_808, gpt2(768, 12, 12)),
    "gpt2-medium": (354_823_168, gpt2(1024, 16, 24)),
    "gpt2-large": (774_030_080, gpt2(1280, 20, 36)),
    "gpt2-xl": (1_557_611_200, gpt2(1600, 25, 48)),
    "SmolLM-135M": (134_515_008, llama(576, 30, 9, 3, 1536, **SMOL)),
    "SmolLM-360M": (361_821_120, llama(960, 32, 15, 5, 2560, **SMOL)),
    "SmolLM-1.7B": (1_711_376_384, llama(2048, 24, 32, 32, 8192, **SMOL)),
    "TinyLlama": (1_100_048_384, llama(2048, 22, 32, 4, 5632, vocab_size=32000)),
    "llama-2-7b": (6_738_415_616, llama(4096, 32, 32, 32, 11008, vocab_size=32000)),
    "llama-3.2-1b": (1_235_814_400, llama(2048, 16, 32, 8, 8192, **LLAMA3)),
    "llama-3.2-3b": (3_212_749_824, llama(3072, 28, 24, 8, 8192, **LLAMA3)),
    "qwen2.5-0.5b": (494_032_768, llama(896, 24, 14, 2, 4864, **QWEN)),
    "mistral-7b": (
        7_241_732_096,
        llama(4096, 32, 32, 8, 14336, vocab_size=32000, model_type="mistral"),
    ),
    "powerlm-3b": (3_510_819_072, llama(2304, 40, 36, 36, 9216, **SMOL, model_type="granite")),
    "gemma-2b": (
        2_506_172_416,
        llama(
            2048, 18, 8, 1, 16384,
            model_type="gemma", vocab_size=256000, head_dim=256, tie_word_embeddings=True,
        ),
    ),
    "bloom-560m": (
        559_214_592,
        {
            "model_type": "bloom",
            "vocab_size": 250880,
            "hidden_size": 1024,
            "n_layer": 24,
            "n_head": 16,
        },
    ),
    "mixtral-8x7b": (
        46_702_792_704,
        llama(
            4096, 32, 32, 8, 14336, vocab_size=32000, model_type="mixtral", num_local_experts=8
        ),
    ),
    "olmoe": (
        6_919_161_856,
        llama(2048, 16, 16, 16, 1024, vocab_size=50304, model_type="olmoe", num_experts=64),
    ),
}  # fmt: skip
QUICK = ("opt-125m", "gpt2", "gemma-2b")


def named(names: Any) -> list[Any]:
    return [pytest.param(*PUBLIC[name], id=name) for name in names]


def check(num_parameters: int, config: dict[str, Any]) -> None:
    entry = ModelEntry(name="public", weights="random", architecture=config)
    architecture = entry_architecture(entry)
    assert isinstance(architecture, Architecture)
    assert count_parameters(architecture) == num_parameters


@pytest.mark.parametrize(("num_parameters", "config"), named(QUICK))
def test_a_public_model_has_as_many_parameters(num_parameters: int, config: Any) -> None:
    check(num_parameters, config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_parameters", "config"), named(name for name in PUBLIC if name not in QUICK)
)
def test_another_public_model_has_as_many_parameters(num_parameters: int, config: Any) -> None:
    check(num_parameters, config)
