"""Weights and tokenizers from a model's folder: safetensors only, and no code of a model is run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lomo.errors import UserError


def load_model(folder: str, *, dtype: str, attention: str, device: str) -> PreTrainedModel:
    """The causal LM in `folder`, weights in `dtype`, on `device`. Never executes a model's code."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        attn_implementation=attention,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    model.config.use_cache = False
    return model.to(torch.device(device))  # type: ignore[arg-type]


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Makes each layer's activations be recomputed in the backward pass."""
    # transformers 5.23 renamed it; 5.17 knows only the old name.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False})


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`. Raises UserError if it has no end-of-sequence token."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True
    )
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no end-of-sequence token", where=folder)
    return tokenizer


def weights_sha256(folder: str) -> str:
    """One hash over the safetensors files of a folder, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
