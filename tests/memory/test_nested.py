"""Models of several parts: their language part is counted, and the answer says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.model.architecture import Architecture, count_parameters, read_architecture

TALL = {"num_hidden_layers": 36, "intermediate_size": 11008, "hidden_size": 2048}
SECTIONS = {"mrope_section": [16, 24, 24]}
# Parameters of the language parts as their publishers tell them, in billions.
WHOLE: dict[str, tuple[float, dict[str, Any]]] = {
    # As on the hub: what it leaves out is the family's own.
    "gemma3": (
        3.880,
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 2560,
                "intermediate_size": 10240,
                "num_hidden_layers": 34,
                "sliding_window": 1024,
            },
        },
    ),
    "llama4": (
        107.770,
        {
            "text_config": {
                "model_type": "llama4_text",
                "hidden_size": 5120,
                "intermediate_size": 8192,
                "intermediate_size_mlp": 16384,
                "num_hidden_layers": 48,
                "num_attention_heads": 40,
                "num_key_value_heads": 8,
                "num_local_experts": 16,
                "interleave_moe_layer_step": 1,
                "vocab_size": 202048,
            }
        },
    ),
    "qwen2_vl": (
        7.616,
        {  # flat
            "architectures": ["Qwen2VLForConditionalGeneration"],
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
            "rope_scaling": {"type": "mrope", **SECTIONS},
            "vision_config": {"depth": 32},
        },
    ),
    "qwen2_5_vl": (
        3.086,
        {
            "tie_word_embeddings": True,
            "text_config": {
                **{"model_type": "qwen2_5_vl_text", "vocab_size": 151936, **TALL},
                **{"num_attention_heads": 16, "num_key_value_heads": 2},
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **SECTIONS},
            },
        },
    ),
    "qwen3_vl": (
        4.022,
        {
            "text_config": {
                **{"model_type": "qwen3_vl_text", "vocab_size": 151936, **TALL},
                **{"hidden_size": 2560, "intermediate_size": 9728, "head_dim": 128},
                **{"num_attention_heads": 32, "num_key_value_heads": 8},
                "tie_word_embeddings": True,
                "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, **SECTIONS},
            }
        },
    ),
    "llava": (6.739, {"text_config": {"model_type": "llama", "vocab_size": 32064}}),
}


def read(folder: Path, values: dict[str, Any]) -> Architecture:
    (folder / "config.json").write_text(json.dumps(values))
    return read_architecture(str(folder), where="--model")


@pytest.mark.slow
@pytest.mark.parametrize("kind", WHOLE)
def test_the_language_part_of_a_larger_model_is_counted(kind: str, tmp_path: Path) -> None:
    billions, values = WHOLE[kind]
    architecture = read(tmp_path, {"model_type": kind, "vision_config": {}, **values})
    assert count_parameters(architecture) / 1e9 == pytest.approx(billions, abs=0.001)
    assert architecture.notes[0].startswith(f"Only the language part of {kind} (")


def test_what_is_not_told_and_what_is_counted_is_said(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    own = {"model_type": "mixtral", "num_local_experts": 4, "vocab_size": 100, **sizes}
    notes = read(tmp_path, {"model_type": "llava", "text_config": own}).notes
    assert "language part of llava (mixtral)" in notes[0]
    assert "does not tell num_attention_heads" in notes[0]
    assert notes[1].startswith("A mixture of 4 experts: weights, gradients and state of all are")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model_type": "clip", "text_config": {"model_type": "clip_text_model"}}, "no causal"),
        ({"model_type": "gemma3", "text_config": None}, "text_config, which is not there"),
        ({"model_type": "llava", "text_config": {"model_type": "newer"}}, "text_config (newer)"),
        (
            {
                "model_type": "gemma3",
                "text_config": {"model_type": "gemma3_text"},
                "quantization_config": {"quant_method": "gptq"},
            },
            "quantised weights (gptq)",
        ),
    ],
)
def test_a_part_that_is_no_language_model_is_refused(
    values: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        read(tmp_path, values)
    assert told in str(refused.value)
