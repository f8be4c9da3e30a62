"""The command `fits`: from its options to what fits, as a table or JSON."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.memory.asked import predict as ask
from lomo.study.cards import card_of
from lomo.system.command import QUIET, Command, waiting
from lomo.system.processes import quieten

if TYPE_CHECKING:
    from lomo.memory.asked.fitting import Answer
    from lomo.model.architecture import Architecture

LARGE = 1_000_000_000  # parameters of a model that stands in the table


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `fits`."""
    parser.add_argument(
        "--gpu",
        nargs="+",
        required=True,
        metavar="CARD",
        help=f"{ask.CARD_HELP}; exit code 3 if nothing fits",
    )
    parser.add_argument("--gpus", type=int, default=1, help="cards: 1, 2, 4, ... up to so many")
    parser.add_argument("--models", nargs="+", help="as of `predict` (default: the paper's four)")
    parser.add_argument("--methods", nargs="+", help="method ids (default: all that train)")
    parser.add_argument("--seq-len", type=int, default=1024, help="tokens a sequence")
    parser.add_argument(
        "--sequence", dest="seq_len", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    ask.add_switches(parser, checkpointing=True)
    parser.add_argument(
        "--processes", type=int, default=cores(), help="default: one a core, %(default)s here"
    )
    parser.add_argument("--json", action="store_true", help="every cell, in bytes")
    parser.add_argument("--out", type=Path, help="also write every cell to this file, as JSON")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answer(options: argparse.Namespace, *, progress: bool) -> tuple[str, int]:
    """What fits, as text, and the exit code. Raises UserError for what cannot be asked."""
    from lomo.system.files import write_text

    cards = sorted({card_of(text, where="--gpu") for text in options.gpu}, key=lambda c: c.gib)
    methods = _check(options)
    architectures = _architectures(options)
    if options.out:
        _check_folder(options.out)
    with waiting("loading torch and transformers", shown=progress):
        from lomo.memory.asked.cells import Switches
        from lomo.memory.asked.fits_text import as_json, as_text
        from lomo.memory.asked.fitting import card_counts, find

    switches = Switches(
        dtype=options.dtype,
        attention=options.attention,
        head_loss=options.head_loss,
        checkpointing=options.checkpointing,
        max_grad_norm=options.max_grad_norm,
        rank=options.rank,
    )
    found = find(
        architectures,
        methods,
        gpus_gib=list(dict.fromkeys(card.gib for card in cards)),
        counts=card_counts(options.gpus),
        sequence_length=options.seq_len,
        num_processes=options.processes,
        progress=progress,
        switches=switches,
        hints=not options.out,
    )
    _check_refused(found)
    if options.out:
        write_text(options.out, as_json(found, fingerprint_of_fits(methods)))
    if options.json:
        text = as_json(found, fingerprint_of_fits(methods))
    else:
        text = as_text(found, {card.gib: card.name for card in cards})
    return text, 0 if any(cell.batch_size for cell in found.cells) else ask.DOES_NOT_FIT


def _check_refused(found: Answer) -> None:
    """A table of refusals is no answer."""
    reasons = list(dict.fromkeys(cell.refused for cell in found.cells))
    if None not in reasons:
        more = f" (and {len(reasons) - 1} other reasons)" if len(reasons) > 1 else ""
        raise UserError(f"nothing of it can be run: {reasons[0]}{more}", where="fits")


def trained_methods() -> list[str]:
    """The ids of all methods that take a training step."""
    from lomo import methods

    return [method for method in methods.modules() if methods.describe(method).trains]


def shown_models() -> list[str]:
    """The registry's models that the table shows: the paper's, and others that are large."""
    from lomo.model.registry import registry

    return [
        name
        for name, entry in registry().items()
        if entry.paper or (entry.weights in ("hub", "random") and _is_large(entry.architecture))
    ]


def _is_large(architecture: Mapping[str, object] | None) -> bool:
    # A decoder layer has about 12 width^2 parameters, which is enough to tell toys from the rest.
    sizes = architecture or {}
    width, depth = (int(str(sizes.get(key, 0))) for key in ("hidden_size", "num_hidden_layers"))
    return 12 * depth * width**2 > LARGE


def fingerprint_of_fits(methods: Sequence[str]) -> str:
    """Hash of the code that the answers of these methods come from."""
    from lomo.record.provenance import fingerprint

    parts = [fingerprint("fits", method, engine="fsdp2") for method in methods]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _check(options: argparse.Namespace) -> list[str]:
    """The methods that are asked for."""
    from lomo import methods

    for count, what, where in (
        (options.gpus, "cards", "--gpus"),
        (options.seq_len, "tokens", "--seq-len"),
        (options.processes, "processes", "--processes"),
    ):
        if count < 1:
            raise UserError(f"{count} {what}", where=where, allowed="at least 1")
    trained = trained_methods()
    for method in options.methods or ():
        methods.check_name(method, where="--methods")
        if method not in trained:
            raise UserError(
                f"{method} takes no training step", where="--methods", allowed=", ".join(trained)
            )
    asked = list(dict.fromkeys(options.methods or trained))
    if options.rank is not None and not any(ask.has_rank(method) for method in asked):
        adapted = ", ".join(method for method in trained if ask.has_rank(method))
        raise UserError("no method that is asked for has adapters", where="--rank", allowed=adapted)
    return asked


def _check_folder(out: Path) -> None:
    """Before minutes of work, not after."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", where=f"--out {out}") from error
    if out.is_dir():
        raise UserError("cannot be written (it is a folder)", where=f"--out {out}")


def _architectures(options: argparse.Namespace) -> list[Architecture]:
    from lomo.model.architecture import read_architecture
    from lomo.model.registry import registry

    paper = [name for name, entry in registry().items() if entry.paper]
    architectures = [
        read_architecture(name, where="--models") for name in dict.fromkeys(options.models or paper)
    ]
    for architecture in architectures:
        positions = getattr(architecture.config, "max_position_embeddings", None)
        if positions is not None and options.seq_len > positions:
            raise UserError(
                f"{options.seq_len} tokens are more than {architecture.name} has positions",
                where="--seq-len",
                allowed=f"at most {positions}",
            )
    return architectures


def run(options: argparse.Namespace) -> int:
    """The command `fits`."""
    quieten()
    text, code = answer(options, progress=not QUIET)
    print(text)
    return code


COMMANDS = {"fits": Command(add_options, run)}
