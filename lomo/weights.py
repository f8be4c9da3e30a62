"""Weights and tokenizers from a model's folder: safetensors only, and no code of a model is run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lomo.errors import UserError
from lomo.models import RANDOM_WEIGHTS


def load_model(folder: str, *, dtype: str, attention: str, device: str) -> PreTrainedModel:
    """The causal LM in `folder`, weights in `dtype`, on `device`. Never executes a model's code.

    Random weights are drawn on the device: as they are seeded, the same for a device and a dtype.
    """
    loading: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    config = AutoConfig.from_pretrained(folder, **loading)
    kind = {"dtype": getattr(torch, dtype), "attn_implementation": attention}
    seed = getattr(config, RANDOM_WEIGHTS, None)
    model: PreTrainedModel
    if seed is None:
        model = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, **kind, **loading
        )
    else:
        model = _random_model(config, int(seed), torch.device(device), **kind)
    model.config.use_cache = False
    return model.to(torch.device(device))  # type: ignore[arg-type]


def _random_model(
    config: PretrainedConfig, seed: int, device: torch.device, **kind: Any
) -> PreTrainedModel:
    """Each tensor is made in its dtype, where it stays: no copy in fp32 or on the host."""
    torch.manual_seed(seed)
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, **kind
        )
    return model


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


def weights_sha256(folder: str) -> str | None:
    """One hash over a folder's safetensors files, in the order of their names; None for none."""
    digest = hashlib.sha256()
    files = sorted(Path(folder).glob("*.safetensors"))
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest() if files else None
