"""Floating point operations of a training step. Imports no torch.

A multiplication and an addition are two operations. Only matrix products count: norms, softmax,
rotary positions and optimizers are below a percent of a large model's.
Letters: N weights in products, L layers, A width of attention (heads x their width), S tokens of a
sequence, T tokens of the step, V vocabulary, H hidden, F width of the MLP.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMULA = "PaLM, appendix B: 6 N + 12 L A S a token, N without the embedding's look-up"

# Names that families give to the same size.
_NAMES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "heads": ("num_attention_heads", "n_head"),
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "mlp": ("intermediate_size", "ffn_dim", "n_inner"),
    "vocabulary": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions"),
}
# Families with a table of positions, and the rows that it has beyond the longest sequence.
_POSITION_ROWS = {"gpt2": 0, "opt": 2}
# Dropout behind the MLP keeps its mask, so the MLP's last product is recomputed with it.
_DROPOUTS = ("dropout", "resid_pdrop")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def model_flops_per_token(
    config: Mapping[str, Any],
    *,
    num_parameters: int,
    num_trainable_parameters: int,
    sequence_length: int,
) -> float:
    """Operations that a training step needs for a token, by PaLM's convention (FORMULA).

    Recomputing, a second backward and skipping what a causal mask hides do not change it. A frozen
    weight needs no gradient: of its 6 operations 4 are left.
    config: a Hugging Face config's values, `tie_word_embeddings` among them. num_parameters: all of
    the model's, adapters too, tied ones once. Raises ValueError for a mixture of experts, of whose
    weights a token meets a few, and for a config that lacks a size.
    """
    used, trained = _in_products(config, num_parameters, num_trainable_parameters)
    attention = 12 * _size(config, "layers") * _attention_width(config) * sequence_length
    return float(4 * used + 2 * trained + attention)


def hardware_flops_per_step(
    config: Mapping[str, Any],
    *,
    num_parameters: int,
    num_trainable_parameters: int,
    batch_size: int,
    sequence_length: int,
    activation_checkpointing: bool,
    num_backwards: int = 1,
    attention: str = "eager",
    head_recomputed: bool = False,
) -> float:
    """Operations that a step executes: what it needs, what it recomputes, and a second backward.

    activation_checkpointing: each backward runs each layer's forward again, up to the last tensor
    that is kept: the MLP's last product is left out, and so is the head.
    num_backwards: see `backwards_per_step`. attention: "eager" multiplies what the mask hides;
    "sdpa", as flash attention does it, does not, and computes the scores again in the backward.
    head_recomputed: each backward makes the logits again, as a loss does that does not keep them.
    Arguments and errors else as of `model_flops_per_token`.
    """
    used, trained = _in_products(config, num_parameters, num_trainable_parameters)
    layers, hidden = _size(config, "layers"), _size(config, "hidden")
    num_tokens = batch_size * sequence_length
    # Scores, and the values that they weigh: two products forward, twice as many backward.
    scores = 4.0 * layers * num_tokens * sequence_length * _attention_width(config)
    forward_scores, backward_scores = scores, 2 * scores
    if attention == "sdpa":
        forward_scores, backward_scores = scores / 2, 2.5 * scores / 2
    forward = 2 * used * num_tokens + forward_scores
    backward = 2 * (used + trained) * num_tokens + backward_scores
    head = _size(config, "vocabulary") * hidden
    if head_recomputed:
        backward += 2 * head * num_tokens
    if activation_checkpointing:
        skipped = head
        if not any(config.get(name) for name in _DROPOUTS):
            skipped += layers * hidden * _mlp_width(config)
        backward += 2 * (used - skipped) * num_tokens + forward_scores
    return float(forward + num_backwards * backward)


def backwards_per_step(
    method: str, hyper: Mapping[str, Any], max_grad_norm: float | None
) -> int | None:
    """How many backwards a step takes: two where a fused method clips by the exact global norm.

    None where the first one forms no gradient (update: gemm): what its Gram matrices cost instead
    depends on each weight's shape and is not counted here.
    """
    fused = method in ("lomo", "adalomo", "lora_lomo")
    if not fused or max_grad_norm is None or hyper.get("norm_scope", "global") != "global":
        return 1
    return None if hyper.get("update") == "gemm" else 2


def _in_products(
    config: Mapping[str, Any], num_parameters: int, num_trainable_parameters: int
) -> tuple[int, int]:
    """Weights that tokens are multiplied with, and those of them that are trained.

    The embedding is looked up, not multiplied; where it is tied, it is the head as well.
    """
    if any((config.get(name) or 0) > 1 for name in _EXPERTS):
        raise ValueError("a mixture of experts: a token meets only a few of its weights")
    if config.get("tie_word_embeddings") is None:
        raise ValueError("the config does not say tie_word_embeddings")
    rows = 0 if config["tie_word_embeddings"] else _size(config, "vocabulary")
    if config.get("model_type") in _POSITION_ROWS:
        rows += _size(config, "positions") + _POSITION_ROWS[config["model_type"]]
    looked_up = rows * _size(config, "hidden")
    all_trained = num_trainable_parameters == num_parameters
    return num_parameters - looked_up, num_trainable_parameters - looked_up * all_trained


def _size(config: Mapping[str, Any], name: str) -> int:
    for key in _NAMES[name]:
        if config.get(key) is not None:
            return int(config[key])
    raise ValueError(f"the config lacks {_NAMES[name][0]}")


def _attention_width(config: Mapping[str, Any]) -> int:
    heads = _size(config, "heads")
    return heads * int(config.get("head_dim") or _size(config, "hidden") // heads)


def _mlp_width(config: Mapping[str, Any]) -> int:
    if all(config.get(key) is None for key in _NAMES["mlp"]):
        return 4 * _size(config, "hidden")  # GPT-2's own default
    return _size(config, "mlp")
