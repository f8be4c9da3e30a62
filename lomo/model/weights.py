"""Weights and tokenizers from a model's folder: safetensors only, and no code of a model is run.

Before any is loaded, a model's files are seen to hold just the weights that its config asks for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lomo.engines.ranks import decoder_layers
from lomo.engines.single import Draw, as_it_is
from lomo.errors import UserError
from lomo.model.architecture import check_attention, read_family, sound_config
from lomo.model.checkpoint import Stored, read_config, tensors_in, weight_files
from lomo.model.registry import RANDOM_WEIGHTS

_SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


def load_model(folder: str, *, dtype: str, attention: str, device: str) -> PreTrainedModel:
    """The causal LM in `folder`, weights in `dtype`, on `device`. Never executes a model's code.

    Random weights are drawn on the device: as they are seeded, the same for a device and a dtype.
    Raises UserError, before any weight is loaded, for a model that is not causal, and for files
    that do not hold just the weights that the config asks for.
    """
    config, model_class = _read_config(folder, attention)
    kind = _kind(dtype, attention)
    seed = getattr(config, RANDOM_WEIGHTS, None)
    model: PreTrainedModel
    if seed is None:
        check_weights(folder, config, model_class)
        model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **kind, **_SAFE)
        check_ties(folder, model)
    else:
        model = _random_model(config, int(seed), torch.device(device), kind)
    model.config.use_cache = False
    return model.to(torch.device(device))  # type: ignore[arg-type]


def _read_config(folder: str, attention: str) -> tuple[PretrainedConfig, Any]:
    """The checked config in `folder`, and the class of its causal LM."""
    path = Path(folder) / "config.json"
    values = read_config(path)
    config_class, model_class = read_family(values, str(path))
    config = sound_config(values, config_class, str(path))
    check_attention(config, attention, str(values["model_type"]), where=f"{path}: attention")
    return AutoConfig.from_pretrained(folder, **_SAFE), model_class


def _random_model(
    config: PretrainedConfig, seed: int, device: torch.device, kind: dict[str, Any]
) -> PreTrainedModel:
    """Each tensor is made in its dtype, where it stays: no copy in fp32 or on the host."""
    torch.manual_seed(seed)
    with device:
        return _from_config(config, kind)


def open_for_ranks(
    folder: str, *, dtype: str, attention: str, device: str, rank: int
) -> tuple[PreTrainedModel, Draw]:
    """The same model on the host of a rank, to be spread with rank 0's weights, and how they come.

    Only rank 0 reads weights. Random ones are drawn on its device, a module at a time, when they
    are asked for. All else is memory that is asked for and never touched, so it takes none.
    """
    # Here, since predictions with the modelling code of June 2023 import this module, too.
    from transformers.initialization import no_init_weights

    config, _ = _read_config(folder, attention)
    seed = getattr(config, RANDOM_WEIGHTS, None)
    if rank == 0 and seed is None:
        whole = load_model(folder, dtype=dtype, attention=attention, device="cpu")
        return whole, as_it_is
    with no_init_weights():
        hollow = _from_config(config, _kind(dtype, attention))
    hollow.config.use_cache = False
    if rank or seed is None:
        return hollow, as_it_is
    return hollow, _drawing(hollow, int(seed), torch.device(device))


def _drawing(model: PreTrainedModel, seed: int, device: torch.device) -> Draw:
    """Draws what belongs to `model` now: a method's adapters come later, and have their values."""
    waiting = set(model.modules())
    torch.manual_seed(seed)

    @torch.no_grad()
    def draw(module: nn.Module) -> None:
        own = [part for part in module.modules() if part in waiting]
        waiting.difference_update(own)
        for part in own:
            for parameter in part.parameters(recurse=False):
                parameter.data = torch.empty_like(parameter, device=device)
        for part in own:
            if any(True for _ in part.parameters(recurse=False)):
                model._init_weights(part)

    return draw


def _kind(dtype: str, attention: str) -> dict[str, Any]:
    return {"dtype": getattr(torch, dtype), "attn_implementation": attention}


def _from_config(config: PretrainedConfig, kind: dict[str, Any]) -> PreTrainedModel:
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


def compile_layers(model: nn.Module) -> None:
    """Has each decoder layer compiled when it first runs.

    Not the whole model: its backward would return all gradients at once, and a fused update would
    save nothing.
    """
    for layer in decoder_layers(model):
        layer.compile()


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`. Raises UserError if it is broken or has no end token."""
    fix = "write it anew: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)"
    tokenizer: PreTrainedTokenizerBase
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFE)
    except Exception as error:  # a broken file raises whatever its reader stumbles over
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(
            f"the tokenizer can't be read: {lines[0]}",
            where=f"{folder}/tokenizer.json",
            allowed="tokenizer.json, and beside it tokenizer_config.json, as they were saved",
            fix=fix,
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no end-of-sequence token",
            where=f"{folder}/tokenizer_config.json",
            allowed="eos_token: one of the tokens of tokenizer.json",
            fix="set it to the token that ended the model's texts",
        )
    return tokenizer


def num_rows(folder: str) -> int:
    """How many tokens the model in `folder` has an embedding for, by its config."""
    config = AutoConfig.from_pretrained(folder, **_SAFE)
    return int(config.get_text_config().vocab_size)


def weights_sha256(folder: str) -> str | None:
    """One hash over the files that a model's weights are loaded from; None for random weights."""
    if RANDOM_WEIGHTS in read_config(Path(folder) / "config.json"):
        return None
    digest = hashlib.sha256()
    for path in weight_files(Path(folder), where=folder):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
# What older releases stored of a model beside its weights: masks, positions and frequencies.
_BUFFERS = re.compile(r"(attn|attention)\.(bias|masked_bias)$|rotary_emb\.inv_freq$|position_ids$")
_SHOWN = 4


def check_weights(folder: str, config: PretrainedConfig, model_class: Any) -> None:
    """Raises UserError for weights that are missing, too many, or of another shape or type.

    Only headers are read: transformers' own loader, which knows a family's renamings and ties, is
    given tensors without bytes.
    """
    files = weight_files(Path(folder), where=folder)
    stored = tensors_in(files)
    empty = {
        name: torch.empty(tensor.shape, dtype=_FLOATS[tensor.dtype], device="meta")
        for name, tensor in stored.items()
        if tensor.dtype in _FLOATS
    }
    try:
        _, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=empty,
            dtype=torch.float32,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"its weights cannot be brought into the model of its config: {_first_line(error)}",
            where=folder,
            fix="give the config that the weights were saved with",
        ) from error
    _refuse(folder, info, stored)


def check_ties(folder: str, model: PreTrainedModel) -> None:
    """Raises UserError where the config ties the head to the embeddings, and the weights differ."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = getattr(model.config, "tie_word_embeddings", False)
    if tied and head is not None and head.weight is not embeddings.weight:
        raise UserError(
            "tie_word_embeddings is true, and the weights of the head are not the embeddings'",
            where=f"{folder}/config.json",
            fix="write `tie_word_embeddings: false`, if it was trained so, or remove the head's "
            "tensor from the weights",
        )


def _refuse(folder: str, info: dict[str, Any], stored: dict[str, Stored]) -> None:
    missing = set(info["missing_keys"])
    unexpected = {name for name in info["unexpected_keys"] if not _BUFFERS.search(name)}
    shapes = [
        f"{name} (stored {tuple(found)}, asked {tuple(asked)})"
        for name, found, asked in sorted(info["mismatched_keys"])
    ]
    integers = {name for name, tensor in stored.items() if tensor.dtype not in _FLOATS}
    packed = {f"{name} is {stored[name].dtype}" for name in missing & integers}
    faults = [
        f"{len(names)} {words}: {_some(names)}"
        for words, names in (
            ("missing", missing),
            ("not of this model", unexpected),
            ("of another shape", shapes),
            ("of another type than weights", packed),
            ("not readable", info.get("error_msgs") or ()),
        )
        if names
    ]
    if faults:
        raise UserError(
            f"its weights are not those that its config asks for; {'; '.join(faults)}",
            where=folder,
            allowed="each tensor of the model once, and no other (tied heads may be left out)",
            fix="give the config and the files that were saved together; nothing is filled up with "
            "random weights",
        )


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
