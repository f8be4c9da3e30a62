"""A real LLaMA with pieces of sentences for tokens, to GGUF and back: the same model and texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lomo.cli import main
from lomo.model.weights import load_model, load_tokenizer
from lomo.tasks.tokens import text_encoder

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
TEXTS = ("Once upon a time, Lily saw 2 cats.", "naïve 東京", "a\n\nb", "She said: 'no!'")


@pytest.fixture
def there_and_back(
    test_data: Path, write_gguf: Callable[..., Path], tmp_path: Path
) -> tuple[Path, Path]:
    """The folder, and the folder that was made of its GGUF file."""
    folder = test_data / "weights" / "tinystories-656k"
    config = json.loads((folder / "config.json").read_text())
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens[1:3] = ["<s>", "</s>"]  # this model's have names of their own
    special = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL}
    kinds = [special.get(token, BYTE if token.startswith("<0x") else NORMAL) for token in tokens]
    # Merges stand in a file as scores: the earlier, the higher.
    merged = {"".join(pair.split(" ")): -float(n) for n, pair in enumerate(model["merges"])}
    file = write_gguf(
        model=load_model(str(folder), dtype="float32", attention="eager", device="cpu"),
        heads=(config["num_attention_heads"], config["num_key_value_heads"]),
        told={
            "llama.context_length": config["max_position_embeddings"],
            "llama.embedding_length": config["hidden_size"],
            "llama.feed_forward_length": config["intermediate_size"],
            "llama.attention.head_count": config["num_attention_heads"],
            "llama.attention.head_count_kv": config["num_key_value_heads"],
            "llama.rope.freq_base": config["rope_theta"],
            "llama.rope.dimension_count": 16,
            "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
            "llama.vocab_size": config["vocab_size"],
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.pre": "default",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [merged.get(token, -1e6) for token in tokens],
            "tokenizer.ggml.token_type": kinds,
            "tokenizer.ggml.merges": None,
            "tokenizer.ggml.padding_token_id": None,
            "tokenizer.ggml.add_bos_token": True,
        },
    )
    assert main(["import", str(file), "--out", str(tmp_path / "back")]) == 0
    return folder, tmp_path / "back"


def test_the_same_logits_and_the_same_tokens(there_and_back: tuple[Path, Path]) -> None:
    before, after = (str(folder) for folder in there_and_back)
    models = [
        load_model(f, dtype="float32", attention="eager", device="cpu") for f in (before, after)
    ]
    tokens = torch.arange(5, 60)[None]
    with torch.no_grad():
        assert torch.equal(models[0](tokens).logits, models[1](tokens).logits)
    encoders = [text_encoder(load_tokenizer(folder), folder) for folder in (before, after)]
    assert encoders[0].prefix == encoders[1].prefix == [1]
    for text in TEXTS:
        encoded = [encoder.encode(text, [" yes", " no"]) for encoder in encoders]
        assert encoded[0] == encoded[1], text
