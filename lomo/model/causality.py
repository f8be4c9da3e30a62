"""Whether a model may be trained as a causal one: no token may see those that come after it.

Asked of the model's own code, in a small copy of the same configuration, since no list of families
keeps up with them: what a token after another changes is seen in the other's logits.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from contextlib import suppress
from functools import cache
from typing import Any

from lomo.errors import UserError

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
