"""What is counted and not simulated: activations of a model that can't be, and ZeRO-3's buffers.

DeepSpeed's code needs a device and peers, so a rank under it is simulated alone, and its buffers
are added by a model of them. Formulas and where each term comes from stand in docs/prediction.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Zero3:
    """Sizes of DeepSpeed's buffers, in elements; its own defaults, which the engine leaves as is.

    fp32_gradient: whether the fused optimizer copies each gradient to fp32, whole, as the released
    package does.
    """

    max_live_parameters: int = 1_000_000_000
    max_reuse_distance: int = 1_000_000_000
    prefetch_bucket: int = 50_000_000
    reduce_bucket: int = 500_000_000
    sub_group: int = 1_000_000_000
    persistence_threshold: int = 100_000
    fp32_gradient: bool = False


# The authors' settings (ds_config.json of their code) and their optimizer.
AUTHORS = Zero3(
    max_live_parameters=100_000_000,
    max_reuse_distance=100_000_000,
    sub_group=100_000_000,
    fp32_gradient=True,
)


def zero3_ledger(
    fused: Ledger, own: Ledger, numels: Sequence[int], spec: MeasureSpec, sizes: Zero3
) -> Ledger:
    """The ledger of one rank, from ledgers of one process on the rank's share of the batch.

    fused: of a fused method, whose gradients die at once, as they do under ZeRO-3.
    own: of the method itself; the same ledger if it is fused. numels: of each parameter.
    """
    size, ranks = BYTES[spec.dtype], spec.num_devices
    num_own = sum(-(-numel // ranks) for numel in numels)
    shared = numels if ranks > 1 else ()  # a rank alone uses its parts where they are
    held = size * (num_own + sum(n for n in shared if n <= sizes.persistence_threshold))
    gathered = size * _num_gathered(shared, sizes)
    temporary = fused.peak_bytes - sum(fused.at_start.values())
    if own is fused:
        state, bucket, in_step = own.sum_of_terms["optimizer_state_bytes"], 0, 0
        gradients = (4 if sizes.fp32_gradient else -(-size // ranks)) * max(numels)
    else:
        temporary = _with_copy(temporary, size, numels, sizes)
        state = -(-own.sum_of_terms["optimizer_state_bytes"] // ranks)
        state += 4 * num_own if spec.dtype == "float32" else 0  # a master copy even so
        gradients, bucket = size * num_own, size * sizes.reduce_bucket
        # The gradient in fp32, and AdamW's two temporaries, of one sub-group.
        in_step = 4 * (3 if spec.method == "adamw" else 1) * min(num_own, sizes.sub_group)
    other = own.at_start["other_bytes"] + bucket
    backward = {
        "parameters_bytes": held + gathered,
        "gradients_bytes": gradients,
        "optimizer_state_bytes": state,
        "activations_bytes": temporary,
        "other_bytes": other,
    }
    step = {
        **backward,
        "parameters_bytes": size * num_own,
        "activations_bytes": 0,
        "other_bytes": other + in_step,
    }
    phases = {"backward": backward} if own is fused else {"backward": backward, "step": step}
    totals = {phase: sum(parts.values()) for phase, parts in phases.items()}
    highest = max(totals, key=lambda phase: totals[phase])
    terms = {
        "parameters_bytes": held,
        "gradients_bytes": fused.gradients_peak_bytes if own is fused else gradients,
        "optimizer_state_bytes": state,
        "activations_bytes": fused.sum_of_terms["activations_bytes"],
    }
    return replace(
        own,
        peak_bytes=totals[highest],
        peak_phase=highest,
        at_peak=phases[highest],
        at_start={
            **step,
            "gradients_bytes": 0 if own is fused else gradients,
            "other_bytes": other,
        },
        phase_peak_bytes=totals,
        sum_of_terms={**terms, "total_bytes": sum(terms.values())},
        gradients_peak_bytes=gradients,
        timeline=[],
    )


def _with_copy(temporary: int, size: int, numels: Sequence[int], sizes: Zero3) -> int:
    """The most bytes beside what a rank holds in backward: activations, and the copy of a bucket.

    Before gradients are scattered they are copied in the order of the ranks, a bucket at a time:
    in the middle of the pass, or all at its end if one bucket takes them all.
    """
    fill, largest = 0, 0
    for numel in reversed(numels):
        fill = numel if fill + numel > sizes.reduce_bucket else fill + numel
        largest = max(largest, fill)
    at_the_end = sum(numels) <= sizes.reduce_bucket
    return max(temporary, size * largest) if at_the_end else temporary + size * largest


def _num_gathered(numels: Sequence[int], sizes: Zero3) -> int:
    """Elements gathered where forward turns to backward, beside those that always are.

    A parameter stays if its next use is less than the reuse distance away: at the turn these are
    the last half of it, there and back.
    """
    large = [numel for numel in numels if numel > sizes.persistence_threshold]
    window = min(sizes.max_live_parameters, sizes.max_reuse_distance) // 2
    return min(sum(large), max(window, max(large, default=0)) + sizes.prefetch_bucket)
