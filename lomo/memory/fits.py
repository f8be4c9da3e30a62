"""The command `fits`: from its options to what fits, as a table or JSON."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lomo.errors import UserError

if TYPE_CHECKING:
    from lomo.memory.architecture import Architecture

LARGE = 1_000_000_000  # parameters of a model that stands in the table


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `fits`."""
    parser.add_argument(
        "--gpu", type=float, nargs="+", required=True, metavar="GIB", help="a card's GiB"
    )
    parser.add_argument("--gpus", type=int, default=1, help="cards: 1, 2, 4, ... up to so many")
    parser.add_argument("--models", nargs="+", help="as of `predict` (default: the paper's four)")
    parser.add_argument("--methods", nargs="+", help="method ids (default: all that train)")
    parser.add_argument("--sequence", type=int, default=1024, help="tokens a sequence")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="default: one a core"
    )
    parser.add_argument("--json", action="store_true", help="every cell, in bytes")
    parser.add_argument("--out", type=Path, help="also write every cell to this file, as JSON")


def answer(options: argparse.Namespace, *, progress: bool) -> str:
    """What fits, as text. Raises UserError for what cannot be asked."""
    from lomo.files import write_text
    from lomo.memory.fits_text import as_json, as_text
    from lomo.memory.fitting import card_counts, find

    architectures, methods = _check(options)
    if options.out:
        _check_folder(options.out)
    found = find(
        architectures,
        methods,
        gpus_gib=sorted(set(options.gpu)),
        counts=card_counts(options.gpus),
        sequence_length=options.sequence,
        num_processes=options.processes,
        progress=progress,
    )
    if options.out:
        write_text(options.out, as_json(found, fingerprint_of_fits(methods)))
    return as_json(found, fingerprint_of_fits(methods)) if options.json else as_text(found)


def trained_methods() -> list[str]:
    """The ids of all methods that take a training step."""
    from lomo import methods

    return [method for method in methods.modules() if methods.describe(method).trains]


def shown_models() -> list[str]:
    """The registry's models that the table shows: the paper's, and others that are large."""
    from lomo.models import registry

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
    from lomo.provenance import fingerprint

    parts = [fingerprint("fits", method, engine="fsdp2") for method in methods]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _check(options: argparse.Namespace) -> tuple[list[Architecture], list[str]]:
    from lomo import methods

    for gpu_gib in options.gpu:
        if not 0 < gpu_gib < math.inf:
            raise UserError(f"a card of {gpu_gib:g} GiB", where="--gpu", allowed="above 0")
    for count, what, where in (
        (options.gpus, "cards", "--gpus"),
        (options.sequence, "tokens", "--sequence"),
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
    return _architectures(options), list(dict.fromkeys(options.methods or trained))


def _check_folder(out: Path) -> None:
    """Before minutes of work, not after."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", where=f"--out {out}") from error
    if out.is_dir():
        raise UserError("cannot be written (it is a folder)", where=f"--out {out}")


def _architectures(options: argparse.Namespace) -> list[Architecture]:
    from lomo.memory.architecture import read_architecture
    from lomo.models import registry

    paper = [name for name, entry in registry().items() if entry.paper]
    architectures = [
        read_architecture(name, where="--models") for name in dict.fromkeys(options.models or paper)
    ]
    for architecture in architectures:
        positions = getattr(architecture.config, "max_position_embeddings", None)
        if positions is not None and options.sequence > positions:
            raise UserError(
                f"{options.sequence} tokens are more than {architecture.name} has positions",
                where="--sequence",
                allowed=f"at most {positions}",
            )
    return architectures
