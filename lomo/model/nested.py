"""The language part of a model that has several: images go into it, and are not counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lomo.errors import UserError

# Language parts that have no causal LM of their own in transformers, by the family whose layers
# they are. They differ in how positions are numbered, which holds no more memory.
_SAME_LAYERS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_5_omni_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_omni_moe_text": "qwen3_moe",
}
# Written flat: the sizes of the language part beside `vision_config`.
_FLAT = ("qwen2_vl", "qwen2_5_vl")
_ROTARY = ("rope_scaling", "rope_parameters")
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("head_dim", "intermediate_size", "ffn_dim"),
)
_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def language_part(values: Mapping[str, Any], source: str) -> tuple[dict[str, Any], str | None]:
    """The values of the causal LM inside, and what is counted; of a plain model as they are.

    Raises UserError for a language part that is no causal LM of the installed transformers.
    """
    kind, nested = values.get("model_type"), values.get("text_config")
    if not isinstance(nested, Mapping):
        if kind not in _FLAT:
            _check_plain(values, source)
            return dict(values), None
        nested = {k: v for k, v in values.items() if k not in ("vision_config", "model_type")}
    part = dict(nested)
    own = str(part.get("model_type") or f"{kind}_text")
    part["model_type"] = _SAME_LAYERS.get(own, own)
    part.pop("architectures", None)
    _check_known(part["model_type"], str(kind), source)
    filled = _fill(part, own)
    if "tie_word_embeddings" in values:
        part.setdefault("tie_word_embeddings", values["tie_word_embeddings"])
    if own in _SAME_LAYERS:
        part |= {key: _plain(part[key]) for key in _ROTARY if part.get(key)}
    counted = "" if part["model_type"] == own else f", counted as {part['model_type']}"
    note = f"Only the language part of {kind} ({own}{counted}) is counted: nothing beside it."
    if filled:
        note += f" Its config does not tell {', '.join(filled)}: the family's own are taken."
    return part, note


def _fill(part: dict[str, Any], family: str) -> list[str]:
    """Puts the family's own sizes where such a config leaves them out; their names."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class: Any = CONFIG_MAPPING[family]
    usual, own_names = config_class(), getattr(config_class, "attribute_map", {})
    filled = []
    for name in _SIZES:
        own = own_names.get(name, name)
        value = getattr(usual, own, None)
        if part.get(own) is None and part.get(name) is None and isinstance(value, (int, list)):
            part[own] = value
            filled.append(own)
    return filled


def _check_plain(values: Mapping[str, Any], source: str) -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = str(values.get("model_type"))
    parts = getattr(CONFIG_MAPPING[kind], "sub_configs", {}) if kind in CONFIG_MAPPING else {}
    if "text_config" in parts and values.get("hidden_size") is None:
        raise UserError(
            f"{kind} has its language part in text_config, which is not there", where=source
        )


def _check_known(kind: str, whole: str, source: str) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"{whole} has several parts, and its text_config ({kind}) is no causal language model "
            "of the installed transformers",
            where=source,
            allowed="causal language models, alone or as text_config",
        )


def _plain(rotary: Any) -> Any:
    """Without the sections that number positions of images."""
    if not isinstance(rotary, Mapping) or "mrope_section" not in rotary:
        return rotary
    names = ("mrope_section", "mrope_interleaved", "type")
    return {**{k: v for k, v in rotary.items() if k not in names}, "rope_type": "default"}


def experts_note(config: Any) -> str | None:
    """What is counted of a mixture of experts; None for another model."""
    found = (getattr(config, name, None) for name in _COUNTS)
    num = next((value for value in found if isinstance(value, int) and value > 1), None)
    if num is None:
        return None
    used = getattr(config, "num_experts_per_tok", None)
    of_them = f", not the {used} alone that a token uses" if isinstance(used, int) else ""
    return f"A mixture of {num} experts: weights, gradients and state of all are counted{of_them}."
