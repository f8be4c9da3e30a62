"""The registry of models: what an entry may say, and what a local one keeps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.model.architecture import entry_architecture, read_architecture, without_bytes
from lomo.model.registry import (
    RANDOM_WEIGHTS,
    ModelEntry,
    local_entry,
    random_config,
    registry,
    with_random_weights,
)
from lomo.model.weights import load_model
from lomo.study.inputs import model_files


def test_a_local_entry_keeps_what_it_says_of_the_paper(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"my-7b: {{weights: local, path: {model_folder}, paper: 7B}}")
    entry = registry(path)["my-7b"]
    assert (entry.name, entry.paper, entry.weights) == ("my-7b", "7B", "local")


def test_a_key_that_the_weights_do_not_use_is_refused(model_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(f"m: {{weights: random, path: {model_folder}, architecture: {{a: 1}}}}")
    with pytest.raises(UserError, match="does not use path"):
        registry(path)


def test_the_weights_of_a_local_model_are_inputs_of_its_runs(model_folder: Path) -> None:
    files = model_files(local_entry(model_folder, where="test"), "study")
    assert {Path(file).name for file in files} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }


KEPT: dict[str, dict[str, Any]] = {
    "a window of null is none": {
        "model_type": "mistral",
        "sliding_window": None,
        "max_position_embeddings": 16384,
    },
    "a pattern in nested lists": {
        "model_type": "gpt_neo",
        "num_hidden_layers": 4,
        "attention_types": [[["global", "local"], 2]],
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    },
    "kinds of layers": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "layer_types": ["full_attention"] * 6,
        "head_dim": 16,
        "max_position_embeddings": 64,
    },
    "rotary scaling": {
        "model_type": "llama",
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
        "max_position_embeddings": 64,
    },
    "layers without experts": {
        "model_type": "qwen3_moe",
        "mlp_only_layers": [0],
        "num_experts": 4,
        "head_dim": 16,
        "moe_intermediate_size": 32,
        "max_position_embeddings": 64,
    },
    "a limit of Infinity": {"model_type": "llama", "a_limit": [0.0, float("inf")]},
}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("values", KEPT.values(), ids=KEPT)
def test_random_weights_keep_the_whole_architecture(
    values: dict[str, Any], model_folder: Path, tmp_path: Path
) -> None:
    """What a run reads is what a prediction reads, and the folder's own config."""
    folder = shutil.copytree(model_folder, tmp_path / "model")
    config = {**SIZES, **values}
    (folder / "config.json").write_text(json.dumps(config))
    entry = with_random_weights(local_entry(folder, where="test"), where="test")
    given = ModelEntry.model_validate_json(entry.model_dump_json())  # as to the rule's command
    made = tmp_path / "made"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(random_config(given)))
    told = json.loads((made / "config.json").read_text())
    assert told.pop(RANDOM_WEIGHTS) == 0
    assert told == config
    attention = "eager" if values["model_type"] == "gpt_neo" else "sdpa"
    model = load_model(str(made), dtype="float32", attention=attention, device="cpu")
    foreseen = [p.shape for p in without_bytes(entry_architecture(given)).parameters()]
    own = read_architecture(str(folder), where="test").config
    assert [p.shape for p in model.parameters()] == foreseen
    same = ("sliding_window", "attention_layers", "layer_types", "rope_parameters", "a_limit")
    for name in same:
        assert getattr(model.config, name, None) == getattr(own, name, None)
    if values["model_type"] == "mistral":
        assert model.config.sliding_window is None
