"""What `advise` is asked: its options, checked before anything heavy is imported."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lomo.advise import rows
from lomo.errors import UserError, nearest
from lomo.study.cards import Card, card_of, card_seen

if TYPE_CHECKING:
    from lomo.model.architecture import Architecture

# Told where no card is given and none is here: a home, a workstation, and three of a cloud.
COMMON = ("RTX 3060", "RTX 4090", "L40S", "A100 80GB", "H200")


@dataclass(frozen=True)
class Question:
    """What is asked. cards: one, or the common ones where none was given or found (`why_common`).

    positions: the longest sequence of the model, None where its config does not tell.
    mean_tokens: of an example. asked: the command line that asks it again.
    """

    architecture: Architecture
    cards: Sequence[Card]
    num_gpus: int
    sequence_length: int
    positions: int | None
    num_examples: int
    num_epochs: int
    mean_tokens: int
    rows: Sequence[rows.RowKind]
    asked: str
    why_common: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `advise`."""
    parser.add_argument(
        "--model", required=True, help="a name of config/models.yaml, a folder, or a hub id"
    )
    parser.add_argument("--gpu", help="the card's name, such as 'RTX 4090', or GiB (default: here)")
    parser.add_argument("--gpus", type=int, help="how many (default: 1, or all that are here)")
    parser.add_argument("--seq-len", type=int, default=1024, help="longest example, in tokens")
    parser.add_argument("--examples", type=int, default=1000, help="training examples")
    parser.add_argument("--epochs", type=int, default=1, help="passes over them")
    parser.add_argument("--tokens", type=int, help="mean of an example (default: --seq-len)")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help=", ".join(rows.KINDS))
    parser.add_argument("--json", action="store_true", help="all of it, in bytes and seconds")
    parser.add_argument("--write", type=Path, help="also write a study file that measures it")


def question_of(options: argparse.Namespace) -> Question:
    """The question, checked. Raises UserError for what cannot be asked."""
    for name, least in (("gpus", 1), ("seq_len", 2), ("examples", 1), ("epochs", 1), ("tokens", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            where = f"--{name.replace('_', '-')}"
            raise UserError(f"is {value}", where=where, allowed=f"at least {least}")
    if options.tokens is not None and options.tokens > options.seq_len:
        raise UserError(
            f"a mean of {options.tokens} tokens is above the longest, --seq-len {options.seq_len}",
            where="--tokens",
            allowed=f"at most {options.seq_len}",
        )
    kinds = _kinds(options.methods)
    if options.write is not None:
        _check_file(options.write)
    cards, num_gpus, why_common = _cards(options)
    if why_common and options.write is not None:
        raise UserError("needs to know the card", where="--write", fix="add --gpu, its name or GiB")
    architecture, positions = _model(options)
    return Question(
        architecture=architecture,
        cards=cards,
        num_gpus=num_gpus,
        sequence_length=options.seq_len,
        positions=positions,
        num_examples=options.examples,
        num_epochs=options.epochs,
        mean_tokens=options.tokens or options.seq_len,
        rows=kinds,
        asked=_command(options),
        why_common=why_common,
    )


def _kinds(asked: Sequence[str] | None) -> list[rows.RowKind]:
    for name in asked or ():
        if name not in rows.KINDS:
            close = nearest(name, rows.KINDS)
            raise UserError(
                f"unknown method {name!r}",
                where="--methods",
                allowed=", ".join(rows.KINDS),
                fix=f"did you mean {close!r}?" if close else None,
            )
    return [rows.KINDS[name] for name in dict.fromkeys(asked or rows.KINDS)]


def _check_file(path: Path) -> None:
    """Before the work, not after."""
    if path.is_dir():
        raise UserError("is a folder", where=f"--write {path}", allowed="a file, such as my.yaml")
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(
            "is no YAML file by its name", where=f"--write {path}", allowed="such as my.yaml"
        )
    if path.exists():
        raise UserError("is there already", where=f"--write {path}", fix="give another name")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}", where=f"--write {path}")


def _cards(options: argparse.Namespace) -> tuple[list[Card], int, str | None]:
    """The cards, how many of each, and why they are the common ones."""
    if options.gpu is not None:
        return [card_of(options.gpu, where="--gpu")], options.gpus or 1, None
    from lomo.study.machine import GIB, find_machine

    here = find_machine("auto")
    if here.kind == "cuda" and here.device_bytes is not None:
        found = Card(here.name, here.device_bytes / GIB)
        return [_known(found)], options.gpus or here.num_devices, None
    why = "No GPU is here and none was given: the table is for common cards. Yours: --gpu NAME"
    return [card_of(name, where="--gpu") for name in COMMON], options.gpus or 1, why


def _known(found: Card) -> Card:
    """The card of this machine: its memory's speed by the table, and what a process sees of its
    size, which is less than what the driver tells."""
    known = card_seen(found.name, found.gib)
    if known is None:  # its peak may be known all the same
        return found
    return Card(found.name, min(found.gib, known.gib), known.bytes_per_s)


def _model(options: argparse.Namespace) -> tuple[Architecture, int | None]:
    # Not above: a hub id that can't be reached is told before transformers is imported.
    from lomo.model.architecture import read_architecture

    architecture = read_architecture(options.model, where="--model")
    positions = getattr(architecture.config, "max_position_embeddings", None)
    positions = positions if isinstance(positions, int) else None
    if positions is not None and options.seq_len > positions:
        raise UserError(
            f"{options.seq_len} tokens are more than {architecture.name} has positions",
            where="--seq-len",
            allowed=f"at most {positions}",
        )
    return architecture, positions


def _command(options: argparse.Namespace) -> str:
    """The command line, without --json and --write."""
    import shlex

    given = [("--model", options.model), ("--gpu", options.gpu), ("--gpus", options.gpus)]
    given += [("--seq-len", options.seq_len), ("--examples", options.examples)]
    given += [("--epochs", options.epochs if options.epochs > 1 else None)]
    given += [("--tokens", options.tokens)]
    words = [str(word) for name, value in given if value is not None for word in (name, value)]
    words += ["--methods", *options.methods] if options.methods else []
    return shlex.join(["python", "-m", "lomo", "advise", *words])
