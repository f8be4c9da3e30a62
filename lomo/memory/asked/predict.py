"""The command `predict`: from its options to a spec, and to its answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError
from lomo.memory.asked.cells import Switches
from lomo.study.cards import card_of
from lomo.system.command import NO, QUIET, Command, tell, waiting
from lomo.system.processes import quieten

if TYPE_CHECKING:
    from lomo.specs import MeasureSpec


CARD_HELP = "its GiB, such as 24, or its name, such as 'RTX 4090'"
WRAPS = ("layer", "sublayer", "linear")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `predict`."""
    parser.add_argument(
        "--model", required=True, help="a name of config/models.yaml, a folder, or a hub id"
    )
    parser.add_argument("--method", required=True, help="method id, such as lomo")
    parser.add_argument("--seq-len", type=_count, required=True, help="tokens a sequence")
    parser.add_argument("--batch-size", type=_count, default=1, help="sequences a device")
    parser.add_argument(
        "--gpu", metavar="CARD", help=f"does it fit? {CARD_HELP}; exit code 3 if it does not"
    )
    parser.add_argument(
        "--gpus", dest="world_size", type=_count, default=1, metavar="N", help="devices"
    )
    parser.add_argument(
        "--world-size", type=_count, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    parser.add_argument(
        "--engine",
        choices=["single", "fsdp2", "zero3"],
        help="default: single on one device, fsdp2 on more",
    )
    parser.add_argument("--wrap", choices=WRAPS, default="layer", help="what FSDP2 gathers at once")
    add_switches(parser, checkpointing=False)
    parser.add_argument("--json", action="store_true", help="the whole ledger, in bytes")


def add_switches(parser: argparse.ArgumentParser, *, checkpointing: bool) -> None:
    """What changes a step's memory beside the method, in the same words for every command."""
    parser.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        default=checkpointing,
        help=f"recompute each layer (default: {'yes' if checkpointing else 'no'})",
    )
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument(
        "--attention", choices=["sdpa", "eager"], help="sdpa, or eager where the model has no other"
    )
    parser.add_argument("--head-loss", choices=["model", "fused"], default="model")
    parser.add_argument("--max-grad-norm", type=_limit, help="clip the global norm")
    parser.add_argument("--rank", type=_count, help="of LoRA's adapters")


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _limit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def spec_of(options: argparse.Namespace) -> MeasureSpec:
    """What is asked, as a run would be told it. Raises UserError for what cannot be."""
    from lomo import engines, methods

    methods.check_name(options.method, where="--method")
    described = methods.describe(options.method)
    if not described.trains:
        raise UserError(f"{options.method} takes no training step", where="--method")
    if options.max_grad_norm is not None and "max_grad_norm" not in described.honours:
        raise UserError(f"{options.method} cannot honour max_grad_norm", where="--max-grad-norm")
    engine: Any = options.engine or ("single" if options.world_size == 1 else "fsdp2")
    if options.wrap != "layer" and engine != "fsdp2":
        raise UserError(f"{engine} wraps nothing", where="--wrap", fix="use --engine fsdp2")
    if engine == "single" and options.world_size > 1:
        raise UserError(
            f"one process can't use {options.world_size} devices",
            where="--gpus",
            fix="leave --engine out, or take fsdp2 or zero3",
        )
    engines.check(engine, options.world_size, options.method, where="--")
    return switches_of(options).spec(
        "predict",
        model=options.model,
        method=options.method,
        hyper=_hyper(options),
        batch_size=options.batch_size,
        sequence_length=options.seq_len,
        engine=engine,
        num_devices=options.world_size,
    )


def switches_of(options: argparse.Namespace) -> Switches:
    """The options of `add_switches`."""
    return Switches(
        dtype=options.dtype,
        attention=options.attention,
        head_loss=options.head_loss,
        checkpointing=options.checkpointing,
        max_grad_norm=options.max_grad_norm,
        rank=options.rank,
    )


def has_rank(method: str) -> bool:
    """Whether a method has adapters of a rank."""
    from lomo import methods

    return "rank" in methods.describe(method).hyper.model_fields


def _hyper(options: argparse.Namespace) -> dict[str, Any]:
    from lomo import methods

    hyper: Any = methods.describe(options.method).hyper
    if options.rank is None:
        return dict(hyper().model_dump())
    if not has_rank(options.method):
        adapted = [name for name in methods.modules() if has_rank(name)]
        raise UserError(
            f"{options.method} has no adapters", where="--rank", allowed=", ".join(adapted)
        )
    return dict(hyper(rank=options.rank).model_dump())


def answer(options: argparse.Namespace, *, progress: bool = False) -> tuple[str, int]:
    """The prediction that the options ask for, as text, and the exit code.

    progress: whether stderr says what takes long. Raises UserError for what cannot be asked.
    """
    spec = spec_of(options)
    card = None if options.gpu is None else card_of(options.gpu, where="--gpu")
    from lomo.model.architecture import read_architecture

    with waiting("reading the model's code", shown=progress):
        architecture = read_architecture(options.model, where="--model")
    from lomo.memory.asked.predict_text import as_json, as_text, fits

    with waiting(f"predicting a step of {architecture.name}", shown=progress):
        from lomo.memory.predicted.predict import predict
        from lomo.model.architecture import attention_of

        options.attention = options.attention or attention_of(architecture.config)
        options.engine = spec.engine
        spec = spec.model_copy(update={"attention": options.attention})
        prediction = predict(architecture, spec, wrap=options.wrap)
    fitting = card is None or fits(prediction.ledger.peak_bytes, card)
    text = (as_json if options.json else as_text)(options, architecture, prediction, card)
    return text, 0 if fitting else NO


def run(options: argparse.Namespace) -> int:
    """The command `predict`."""
    quieten()
    return tell(answer(options, progress=not QUIET))


COMMANDS = {"predict": Command(add_options, run)}
