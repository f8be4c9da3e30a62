"""The command `predict`: from its options to a spec, and from a prediction to a table or JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError

if TYPE_CHECKING:
    from lomo.specs import MeasureSpec

GIB = 2**30
WRAPS = ("layer", "sublayer", "linear")
ROWS = {
    "parameters_bytes": "parameters",
    "gradients_bytes": "gradients",
    "optimizer_state_bytes": "optimizer state",
    "activations_bytes": "activations",
    "other_bytes": "other",
}
SIMULATED = (
    "The real step on tensors without bytes: what the meter counts on a CPU is met to the byte. A "
    "GPU adds its context, workspaces and fragmentation, 0.5 to 1 GiB; see docs/prediction.md."
)
CLOSED_FORM = (
    "No simulation: {reason}. Parameters, gradients and optimizer state are exact, activations "
    "are an estimate by LLaMA's formula; see docs/prediction.md."
)
ZERO3 = (
    "One process was simulated; ZeRO-3's buffers are added by a model of them, which has no "
    "communication library in it; see docs/prediction.md."
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `predict`."""
    parser.add_argument(
        "--model", required=True, help="a name of config/models.yaml, a folder, or a hub id"
    )
    parser.add_argument("--method", required=True, help="method id, such as lomo")
    parser.add_argument("--seq-len", type=_count, required=True, help="tokens a sequence")
    parser.add_argument("--batch-size", type=_count, default=1, help="sequences a device")
    parser.add_argument("--checkpointing", action="store_true", help="recompute each layer")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument(
        "--attention", choices=["sdpa", "eager"], help="sdpa, or eager where the model has no other"
    )
    parser.add_argument("--head-loss", choices=["model", "fused"], default="model")
    parser.add_argument("--max-grad-norm", type=_limit, help="clip the global norm")
    parser.add_argument("--engine", choices=["single", "fsdp2", "zero3"], default="single")
    parser.add_argument("--world-size", type=_count, default=1, help="devices of the engine")
    parser.add_argument("--wrap", choices=WRAPS, default="layer", help="what FSDP2 gathers at once")
    parser.add_argument("--json", action="store_true", help="the whole ledger, in bytes")


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _limit(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def spec_of(options: argparse.Namespace) -> MeasureSpec:
    """What is asked, as a run would be told it. Raises UserError for what cannot be."""
    from lomo import engines, methods
    from lomo.specs import MeasureSpec

    methods.check_name(options.method, where="--method")
    described = methods.describe(options.method)
    if not described.trains:
        raise UserError(f"{options.method} takes no training step", where="--method")
    if options.max_grad_norm is not None and "max_grad_norm" not in described.honours:
        raise UserError(f"{options.method} cannot honour max_grad_norm", where="--max-grad-norm")
    if options.wrap != "layer" and options.engine != "fsdp2":
        raise UserError(f"{options.engine} wraps nothing", where="--wrap", fix="use --engine fsdp2")
    if options.engine == "single" and options.world_size > 1:
        raise UserError(
            f"one process can't use {options.world_size} devices",
            where="--world-size",
            fix="add --engine fsdp2, or zero3",
        )
    engines.check(options.engine, options.world_size, options.method, where="--")
    return MeasureSpec(
        study="predict",
        run_id="predict",
        model=options.model,
        model_path=options.model,
        method=options.method,
        hyper=described.hyper().model_dump(),
        device="auto",
        dtype=options.dtype,
        attention=getattr(options, "attention", None) or "sdpa",
        activation_checkpointing=options.checkpointing,
        head_loss=getattr(options, "head_loss", "model"),  # `fits` does not ask for it
        batch_size=options.batch_size,
        max_grad_norm=options.max_grad_norm,
        timeout_s=None,
        num_threads=1,
        sequence_length=options.seq_len,
        num_warmup_steps=1,
        num_timed_steps=2,
        engine=options.engine,
        num_devices=options.world_size,
    )


def answer(options: argparse.Namespace) -> str:
    """The prediction that the options ask for, as text."""
    spec = spec_of(options)
    from lomo.memory.architecture import attention_of, read_architecture
    from lomo.memory.predict import predict

    architecture = read_architecture(options.model, where="--model")
    options.attention = options.attention or attention_of(architecture.config)
    spec = spec.model_copy(update={"attention": options.attention})
    prediction = predict(architecture, spec, wrap=options.wrap)
    asked = {key: value for key, value in vars(options).items() if key not in ("command", "json")}
    facts = {
        "asked": asked,
        "account": prediction.account,
        "unsupported": prediction.unsupported,
        "num_parameters": prediction.num_parameters,
        "num_trainable_parameters": prediction.num_trainable_parameters,
        **asdict(prediction.ledger),
    }
    if options.json:
        return json.dumps(facts, indent=1)
    from lomo.native_dtype import why_slow

    slow = why_slow(spec.dtype, spec.device, spec.num_threads)
    return _table(facts) + (f"\nNo GPU is here, and {slow}" if slow else "")


def _table(facts: dict[str, Any]) -> str:
    asked = facts["asked"]
    terms, peak = facts["sum_of_terms"], facts["at_peak"]
    where = "" if asked["engine"] == "single" else f", {asked['engine']} x {asked['world_size']}"
    head = ", fused head loss" if asked["head_loss"] == "fused" else ""
    lines = [
        f"{asked['model']}, {asked['method']}, {asked['batch_size']} x {asked['seq_len']} tokens, "
        f"{asked['dtype']}, {asked['attention']}, "
        f"{'checkpointed' if asked['checkpointing'] else 'not checkpointed'}{head}{where}",
        f"{'GiB, per device':<18}{'sum of terms':>14}{'true peak':>12}",
    ]
    for key, name in ROWS.items():
        term = f"{terms[key] / GIB:.2f}" if key in terms else ""
        lines.append(f"{name:<18}{term:>14}{peak[key] / GIB:>12.2f}")
    total, highest = terms["total_bytes"] / GIB, facts["peak_bytes"] / GIB
    lines.append(f"{'total':<18}{total:>14.2f}{highest:>12.2f}  (in {facts['peak_phase']})")
    if facts["account"] == "closed_form":
        lines.append(CLOSED_FORM.format(reason=facts["unsupported"]))
    else:
        lines.append(ZERO3 if asked["engine"] == "zero3" else SIMULATED)
    return "\n".join(lines)
