"""A prediction in words: what a card must have, whether it fits, where the bytes are, and how far
such a prediction was tested.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import Any

from lomo.memory.predicted.predict import Prediction
from lomo.model.architecture import Architecture
from lomo.study.cards import Card
from lomo.study.machine import GIB, RESERVE_GIB, budget_bytes

# Methods of which a run on one CPU process was met to the byte, by model type.
ON_ONE = {
    "llama": ("adalomo", "adamw", "lomo", "lora", "lora_lomo", "sgd"),
    "qwen3": ("adalomo", "adamw", "lomo", "lora", "lora_lomo", "sgd"),
    "opt": ("adalomo", "adamw", "lomo", "lora", "lora_lomo", "sgd"),
    "mistral": ("lomo",),
    "gpt2": ("adalomo", "adamw", "lomo"),
}
# The same of two ranks under FSDP2: the sum of terms, to the byte.
ON_RANKS = {"llama": ("adamw", "lomo")}


def sentence(model_type: str, method: str, engine: str) -> str:
    """What tests say of such a prediction."""
    one = engine == "single"
    tested = ON_ONE if one else ON_RANKS
    met = "a run on a CPU: equal to the byte"
    if not one:
        met = "a run of two CPU ranks: the sum of terms is equal to the byte"
    if method in tested.get(model_type, ()):
        return f"Tests compare {model_type} by {method} with {met}."
    others = " and ".join(kind for kind, methods in tested.items() if method in methods)
    where = "" if one else f" under {engine}"
    told = f"tests compare {others} with {met}" if others else "no model was"
    return f"{model_type} by {method}{where} was not compared with a run; {told}."


ROWS = {
    "parameters_bytes": "parameters",
    "gradients_bytes": "gradients",
    "optimizer_state_bytes": "optimizer state",
    "activations_bytes": "activations",
    "other_bytes": "other",
}
SIMULATED = (
    "The real step on tensors without bytes. {compared} A GPU adds its context, workspaces and "
    "fragmentation, 0.5 to 1 GiB; see docs/prediction.md."
)
CLOSED_FORM = (
    "No simulation: {reason}. Parameters, gradients and optimizer state are exact, activations "
    "are an estimate by LLaMA's formula; see docs/prediction.md."
)
ZERO3 = (
    "One process was simulated; ZeRO-3's buffers are added by a model of them, which has no "
    "communication library in it; see docs/prediction.md."
)


def fits(peak_bytes: int, card: Card) -> bool:
    """Whether a peak leaves the card what is kept for context and workspaces."""
    return missing_bytes(peak_bytes, card) <= 0


def missing_bytes(peak_bytes: int, card: Card) -> int:
    """What a card lacks for a peak and for what is kept; 0 or less where it fits."""
    return peak_bytes - budget_bytes(card.gib)


def as_json(
    options: argparse.Namespace,
    architecture: Architecture,
    prediction: Prediction,
    card: Card | None,
) -> str:
    """The whole ledger in bytes, and what was asked."""
    peak_bytes = prediction.ledger.peak_bytes
    facts = {
        "asked": {k: v for k, v in vars(options).items() if k != "json" and not callable(v)},
        "account": prediction.account,
        "unsupported": prediction.unsupported,
        "notes": list(architecture.notes),
        "card_bytes": peak_bytes + int(RESERVE_GIB * GIB),
        "num_parameters": prediction.num_parameters,
        "num_trainable_parameters": prediction.num_trainable_parameters,
        **asdict(prediction.ledger),
    }
    if card is not None:
        facts["card"] = {"name": card.name, "gib": card.gib, "reserve_gib": RESERVE_GIB}
        facts["fits"] = fits(peak_bytes, card)
        facts["missing_bytes"] = max(missing_bytes(peak_bytes, card), 0)
    return json.dumps(facts, indent=1)


def as_text(
    options: argparse.Namespace,
    architecture: Architecture,
    prediction: Prediction,
    card: Card | None,
) -> str:
    """The number to compare with a card, the verdict, and a table of the parts."""
    from lomo.study.native_dtype import why_slow

    slow = why_slow(options.dtype, "auto", 1)
    lines = [
        _needed(prediction),
        *([] if card is None else [_verdict(prediction.ledger.peak_bytes, card)]),
        *_table(options, prediction),
        *architecture.notes,
        _account(options, architecture, prediction),
        *([f"No GPU is here, and {slow}"] if slow else []),
    ]
    return "\n".join(lines)


def _needed(prediction: Prediction) -> str:
    """First and marked, since a table of parts has several numbers that look like the answer."""
    peak_gib = prediction.ledger.peak_bytes / GIB
    about = "about " if prediction.account == "closed_form" else ""
    return (
        f"=> {about}{peak_gib + RESERVE_GIB:.2f} GiB is what a card must have: the true peak of "
        f"{peak_gib:.2f}, and {RESERVE_GIB:g} for the CUDA context and workspaces"
    )


def _verdict(peak_bytes: int, card: Card) -> str:
    name = card.name if card.name.startswith("a card") else f"{card.name} ({card.gib:g} GiB)"
    short_bytes = missing_bytes(peak_bytes, card)
    if short_bytes > 0:
        return f"=> does not fit {name}: short by {math.ceil(10 * short_bytes / GIB) / 10:.1f} GiB"
    return (
        f"=> fits {name}: {peak_bytes / GIB:.2f} of {card.gib - RESERVE_GIB:.2f} GiB, "
        f"{RESERVE_GIB:g} is kept"
    )


def _table(options: argparse.Namespace, prediction: Prediction) -> list[str]:
    ledger = prediction.ledger
    terms, peak = ledger.sum_of_terms, ledger.at_peak
    where = "" if options.engine == "single" else f", {options.engine} x {options.world_size}"
    head = ", fused head loss" if options.head_loss == "fused" else ""
    rank = f", rank {options.rank}" if options.rank is not None else ""
    lines = [
        f"{options.model}, {options.method}{rank}, "
        f"{options.batch_size} x {options.seq_len} tokens, {options.dtype}, {options.attention}, "
        f"{'checkpointed' if options.checkpointing else 'not checkpointed'}{head}{where}",
        f"{'GiB, per device':<18}{'sum of terms':>14}{'true peak':>12}",
    ]
    for key, name in ROWS.items():
        term = f"{terms[key] / GIB:.2f}" if key in terms else ""
        lines.append(f"{name:<18}{term:>14}{peak[key] / GIB:>12.2f}")
    total, highest = terms["total_bytes"] / GIB, ledger.peak_bytes / GIB
    lines.append(f"{'total':<18}{total:>14.2f}{highest:>12.2f}  (in {ledger.peak_phase})")
    return lines


def _account(
    options: argparse.Namespace, architecture: Architecture, prediction: Prediction
) -> str:
    if prediction.account == "closed_form":
        return CLOSED_FORM.format(reason=prediction.unsupported)
    if options.engine == "zero3":
        return ZERO3
    kind: Any = architecture.config.model_type
    return SIMULATED.format(compared=sentence(kind, options.method, options.engine))
