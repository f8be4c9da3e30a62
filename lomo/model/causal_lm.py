"""The causal language model in somebody's config: what may be trained here.

Of a model that has several parts it is the language part: images go into it, and are not counted.
And no token may see those that come after it: asked of the model's own code, in a small copy of the
same configuration, since no list of families keeps up with them. What a token after another changes
is seen in the other's logits.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
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


# A width that most families can be made in: 4 heads of 16, so that rotary parts have room.
_SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": 16,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "ffn_dim": 32,
    "n_inner": 32,
    "word_embed_proj_dim": 64,
    "embedding_size": 64,
    "rotary_dim": 8,
    "max_position_embeddings": 64,
    "n_ctx": 64,
    "vocab_size_per_layer_input": 64,
}
_FLAGS = (
    ("is_decoder", False, "is_decoder: true"),
    ("is_causal", False, "is_causal: true"),
    ("causal", False, "causal: true"),
    ("use_bidirectional_attention", True, "use_bidirectional_attention: false"),
)
_LOOKS_AHEAD = 1e-4  # of the last token's own change; a causal model's is 0, or rounding


def attention_of(config: Any) -> str:
    """The attention that a family has: sdpa, or eager where its code knows no other."""
    from transformers import AutoModelForCausalLM

    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    # transformers of June 2023 has no sdpa, and no word for it.
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def check_causal(config: Any, *, where: str) -> None:
    """Raises UserError for a model of which an earlier token sees a later one: it sees its answer.

    `config` is of transformers. A configuration that can't be made small is judged by its flags.
    """
    config_class: Any = type(config)
    ahead = _looks_ahead(config_class, config.to_json_string(use_diff=False))
    name, value, fix = next(
        (flag for flag in _FLAGS if getattr(config, flag[0], None) is flag[1]), (None, None, None)
    )
    if ahead is None:  # a decoder of its own class says is_decoder for the whole of its family
        ahead = name is not None and not getattr(config, "is_encoder_decoder", False)
    if not ahead:
        return
    cause = f"{name} is {str(value).lower()}" if name else "its attention looks ahead"
    raise UserError(
        f"{cause}: every token sees its answer, so that the loss tells nothing",
        where=where,
        allowed="causal language models",
        fix=f"write `{fix}` into its config.json, if it was trained so" if fix else None,
    )


@cache
def _looks_ahead(config_class: Any, values: str) -> bool | None:
    """Whether earlier logits change with the last token; None where no small copy can be made."""

    import torch

    verbosity = logging.getLogger("transformers").level
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        try:
            model = _small_copy(config_class.from_dict(json.loads(values)))
            tokens = torch.arange(5, 17)[None].repeat(2, 1)
            tokens[1, -1] = 40
            # One by one: together, a mixture of experts would share its places between them.
            rows = [model(input_ids=row[None], use_cache=False).logits[0] for row in tokens]
        except Exception:  # any family's own code, in sizes that it was not made for
            return None
        finally:
            logging.getLogger("transformers").setLevel(verbosity)
    change = (rows[0] - rows[1]).abs().amax(-1)
    if not bool(torch.isfinite(change).all()) or change[-1] == 0:
        return None
    return bool(change[:-1].max() > _LOOKS_AHEAD * change[-1])


def _small_copy(config: Any) -> Any:
    """The same family, flags and kinds of layers, but narrow; float32, on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    small = copy.deepcopy(config)
    heads = getattr(config, "num_attention_heads", None)
    shared = getattr(config, "num_key_value_heads", None)
    for name, most in _SMALL.items():
        with suppress(AttributeError, NotImplementedError):  # some are computed from others
            value = getattr(small, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                setattr(small, name, min(value, most) if name.startswith("max_") else most)
            elif isinstance(value, list) and all(isinstance(part, int) for part in value):
                setattr(small, name, [most] * len(value))
    if isinstance(shared, int):
        small.num_key_value_heads = 4 if shared == heads else min(shared, 2)
    for name in [key for key in vars(small) if key.endswith("_token_id")]:
        setattr(small, name, 1)
    for name in ("initializer_range", "init_std"):
        if getattr(small, name, None):
            setattr(small, name, 0.2)
    alike = not any(isinstance(part, list) for part in vars(config).values())
    if alike and getattr(config, "num_hidden_layers", 0) > 2:
        small.num_hidden_layers = 2  # no layer is told apart
    rope = getattr(small, "rope_parameters", None)
    if isinstance(rope, dict):
        small.rope_parameters = _plain_rope(rope)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        small,
        dtype=torch.float32,
        attn_implementation=attention_of(small),
        trust_remote_code=False,
    )
    return model.eval()


def _plain_rope(rope: dict[str, Any]) -> dict[str, Any]:
    """Its factors are lists as long as a head is wide, and turn nothing around in time."""
    if any(isinstance(part, dict) for part in rope.values()):
        return {k: _plain_rope(v) if isinstance(v, dict) else v for k, v in rope.items()}
    kept = ("rope_theta", "partial_rotary_factor")
    return {"rope_type": "default", **{key: rope[key] for key in kept if key in rope}}
