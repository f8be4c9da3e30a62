"""A LLaMA of two layers, with its tokenizer, as a GGUF file: written here, as a converter does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 50000.0,
    "tie_word_embeddings": True,
}
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


@dataclass(frozen=True)
class Original:
    """What the files are written of."""

    model: Any  # a LlamaForCausalLM in float32
    tokenizer: Any  # of the package tokenizers, each digit alone

    @property
    def architecture(self) -> dict[str, Any]:
        """As the registry of models tells it."""
        rows = self.tokenizer.get_vocab_size()
        return {"model_type": "llama", "vocab_size": rows, **SIZES}


@pytest.fixture(scope="session")
def original() -> Original:
    """A model of random weights, and a byte-level tokenizer that was trained on a few lines."""
    pytest.importorskip("gguf", reason="needs the package gguf: pip install 'gguf>=0.19,<0.20'")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer(models.BPE())
    alone = [
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(alone)
    tokenizer.decoder = decoders.ByteLevel()
    lines = ["the cat sat on the mat\n\n12 dogs\n\n3 cats  and  4 hats"] * 4
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **SIZES)
    return Original(LlamaForCausalLM(config).eval(), tokenizer)


@pytest.fixture
def write_gguf(original: Original, tmp_path: Path) -> Callable[..., Path]:
    """Writes the model as a GGUF file; `kinds` says of which tensors (by part of name) not F32.

    told: keys in place of, or beside, those that a converter writes; None leaves one out.
    extra: tensors beside the model's. without: a tensor that is left out.
    heads: of attention, and of keys and values.
    """

    def write(
        name: str = "tiny.gguf",
        *,
        kinds: Mapping[str, str] | None = None,
        told: Mapping[str, Any] | None = None,
        extra: Mapping[str, torch.Tensor] | None = None,
        without: str | None = None,
        model: Any = None,
        heads: tuple[int, int] = (4, 2),
    ) -> Path:
        from gguf import GGMLQuantizationType, GGUFWriter, quantize

        path = tmp_path / name
        keys = {**_metadata(original), **(told or {})}
        writer = GGUFWriter(path, str(keys.pop("general.architecture")))
        for key, value in keys.items():
            _add(writer, key, value)
        tensors = {**_tensors(model or original.model, heads), **(extra or {})}
        for tensor_name, value in tensors.items():
            kind = next((k for part, k in (kinds or {}).items() if part in tensor_name), "F32")
            quantised = GGMLQuantizationType[kind]
            if tensor_name != without:
                data = quantize(value.float().numpy(), quantised)
                writer.add_tensor(tensor_name, data, raw_dtype=quantised)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


def _metadata(original: Original) -> dict[str, Any]:
    vocab = original.tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = json.loads(original.tokenizer.to_str())["model"]["merges"]
    return {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.block_count": SIZES["num_hidden_layers"],
        "llama.context_length": SIZES["max_position_embeddings"],
        "llama.embedding_length": SIZES["hidden_size"],
        "llama.feed_forward_length": SIZES["intermediate_size"],
        "llama.attention.head_count": SIZES["num_attention_heads"],
        "llama.attention.head_count_kv": SIZES["num_key_value_heads"],
        "llama.rope.freq_base": SIZES["rope_theta"],
        "llama.rope.dimension_count": SIZES["hidden_size"] // SIZES["num_attention_heads"],
        "llama.attention.layer_norm_rms_epsilon": SIZES["rms_norm_eps"],
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in SPECIAL else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


def _add(writer: Any, key: str, value: Any) -> None:
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    if value is not None:
        adders[type(value)](key, value)


def _tensors(model: Any, heads: tuple[int, int]) -> dict[str, torch.Tensor]:
    found = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # the embedding's
        _, _, inside = name.partition("model.layers.")
        layer, _, part = inside.partition(".")
        for projection, num_heads in zip(("q_proj", "k_proj"), heads, strict=True):
            if projection in name:
                value = _turned(value, num_heads)
        found[f"blk.{layer}.{NAMES[part]}" if inside else NAMES[name]] = value
    return found


def _turned(value: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of each head in the order of llama.cpp: pairs beside each other, not halves."""
    half = value.shape[0] // num_heads // 2
    return value.view(num_heads, 2, half, -1).transpose(1, 2).reshape(value.shape).contiguous()
