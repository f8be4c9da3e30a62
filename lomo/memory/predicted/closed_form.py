"""Activations by a formula, for a model that can't be simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lomo.memory.measured.ledger import Ledger
from lomo.specs import MeasureSpec

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def activation_bytes(config: Any, spec: MeasureSpec) -> int:
    """Bytes that a forward leaves for its backward; docs/prediction.md has the terms."""
    tokens, size = spec.batch_size * spec.sequence_length, BYTES[spec.dtype]
    num_layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    # The log-softmax in fp32, or one number a token; the last norm's input and output.
    kept = 1 if spec.head_loss == "fused" else int(config.vocab_size)
    head = 4 * tokens * kept + 8 * tokens * width
    if spec.activation_checkpointing:
        return head + num_layers * tokens * width * size
    inner = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", None)
    layer = tokens * (12 * width + 4 * int(inner or 4 * width)) * size
    if spec.attention == "eager":  # the softmax in fp32, and in the weights' own dtype
        layer += int(config.num_attention_heads) * tokens * spec.sequence_length * (4 + size)
    return head + num_layers * layer


def closed_form_ledger(stand_in: Ledger, config: Any, spec: MeasureSpec) -> Ledger:
    """`stand_in`, of a step without a model's forward, with the formula's activations put in.

    The peak is a sum, of these and of what the head's backward takes: two fp32 gradients of the
    logits; or of one slice of them, with their hidden states' (lomo/model/head_loss.py).
    """
    activations = activation_bytes(config, spec)
    wide = int(config.hidden_size) * 2 if spec.head_loss == "fused" else int(config.vocab_size)
    transient = 8 * spec.batch_size * spec.sequence_length * wide
    shares = {key: -(-value // spec.num_devices) for key, value in stand_in.sum_of_terms.items()}
    terms = {**shares, "activations_bytes": activations}
    terms["total_bytes"] = sum(value for key, value in terms.items() if key != "total_bytes")
    other = stand_in.at_start["other_bytes"]
    parts = {key: value for key, value in terms.items() if key != "total_bytes"}
    return replace(
        stand_in,
        peak_bytes=terms["total_bytes"] + transient + other,
        peak_phase="backward",
        at_peak={**parts, "activations_bytes": activations + transient, "other_bytes": other},
        phase_peak_bytes={},
        sum_of_terms=terms,
        timeline=[],
    )
