"""Whether a model's files hold just the weights that its config asks for, before any is loaded."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from lomo.errors import UserError
from lomo.model.checkpoint import Stored, tensors_in, weight_files

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
