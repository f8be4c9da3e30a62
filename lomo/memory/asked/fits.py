"""The command `fits`: from its options to what fits, as a table for a terminal or as JSON."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.memory.asked import predict as ask
from lomo.memory.asked.cells import Cell, Hint, Switches
from lomo.study.cards import card_of
from lomo.study.machine import GIB, RESERVE_GIB
from lomo.system.command import NO, QUIET, Command, tell, waiting
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
        from lomo.memory.asked.fitting import card_counts, find

    found = find(
        architectures,
        methods,
        gpus_gib=list(dict.fromkeys(card.gib for card in cards)),
        counts=card_counts(options.gpus),
        sequence_length=options.seq_len,
        num_processes=options.processes,
        progress=progress,
        switches=ask.switches_of(options),
        hints=not options.out,
    )
    _check_refused(found)
    if options.out:
        write_text(options.out, as_json(found, fingerprint_of_fits(methods)))
    if options.json:
        text = as_json(found, fingerprint_of_fits(methods))
    else:
        text = as_text(found, {card.gib: card.name for card in cards})
    return text, 0 if any(cell.batch_size for cell in found.cells) else NO


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
    return tell(answer(options, progress=not QUIET))


COMMANDS = {"fits": Command(add_options, run)}


def as_json(answer: Answer, fingerprint: str) -> str:
    """Every cell in bytes, one a line, and where it all comes from."""
    from lomo.record.provenance import source_facts

    switches = answer.switches
    more = {"max_grad_norm": switches.max_grad_norm, "rank": switches.rank}
    facts = {
        "sequence_length": answer.sequence_length,
        "dtype": switches.dtype,
        "attention": switches.attention or "sdpa",
        "head_loss": switches.head_loss,
        "activation_checkpointing": switches.checkpointing,
        **{key: value for key, value in more.items() if value is not None},
        "wrap": "layer",
        "reserve_gib": RESERVE_GIB,
        "models": list(answer.models),
        "methods": list(answer.methods),
        "notes": list(answer.notes),
        "hints": [asdict(hint) for hint in answer.hints],
        "wall_s": round(answer.wall_s, 1),
        "provenance": {"fingerprint": fingerprint, **source_facts()},
    }
    lines = ",\n".join(f"  {json.dumps(asdict(cell))}" for cell in answer.cells)
    return json.dumps(facts, indent=1)[:-2] + f',\n "cells": [\n{lines}\n ]\n}}\n'


def as_text(answer: Answer, names: Mapping[float, str] = MappingProxyType({})) -> str:
    """A table for each size of card, and what it means below. names: of cards, by their GiB."""
    sizes = sorted({cell.gpu_gib for cell in answer.cells})
    lines: list[str] = []
    for gpu_gib in sizes:
        lines += [_cards(gpu_gib, names)] if len(sizes) > 1 else []
        lines += [*_table(answer.of_size(gpu_gib), answer.methods)]
    return "\n".join([*lines, *map(_hint, answer.hints), *_notes(answer, sizes, names)])


def _cards(gpu_gib: float, names: Mapping[float, str]) -> str:
    name = names.get(gpu_gib, "")
    named = f" ({name})" if name and not name.startswith("a card") else ""
    return f"Cards of {gpu_gib:g} GiB{named}"


def _hint(hint: Hint) -> str:
    cell = hint.cell
    cards = f"{cell.num_gpus} card{'s' if cell.num_gpus > 1 else ''} of {cell.gpu_gib:g} GiB"
    before = f"instead of {cell.batch_size}" if cell.batch_size else "instead of none"
    return f"=> {hint.switch}: {hint.batch_size} {before} ({cell.model}, {cell.method}, {cards})"


def _table(cells: Sequence[Cell], methods: Sequence[str]) -> list[str]:
    """For each number of cards, a line a model and a column a method."""
    rows: dict[tuple[int, str], dict[str, str]] = {}
    for cell in cells:
        rows.setdefault((cell.num_gpus, cell.model), {})[cell.method] = _words(cell)
    width = 2 + max(len(word) for row in rows.values() for word in (*methods, *row.values()))
    first = 2 + max(len(text) for text in ("999 cards", *(model for _, model in rows)))
    lines, above = [], 0
    for (num_gpus, model), row in rows.items():
        if num_gpus != above:
            title = f"{num_gpus} card{'s' if num_gpus > 1 else ''}"
            lines.append(f"{title:<{first}}" + "".join(f"{m:>{width}}" for m in methods))
            above = num_gpus
        lines.append(f"{model:<{first}}" + "".join(f"{row[m]:>{width}}" for m in methods))
    return lines


def _words(cell: Cell) -> str:
    if cell.refused is not None:
        return "refused"
    if cell.batch_size:
        return str(cell.batch_size)
    return f"-{math.ceil(10 * cell.missing_bytes / GIB) / 10:.1f} GiB"  # up: 0.0 would fit


def _notes(answer: Answer, sizes: Sequence[float], names: Mapping[float, str]) -> list[str]:
    refusals = dict.fromkeys(
        f"refused: {cell.model}, {cell.method}, {cell.num_gpus}: {cell.refused}"
        for cell in answer.cells
        if cell.refused is not None
    )
    by_formula = dict.fromkeys(
        f"by a closed formula, not simulated: {cell.model}"
        for cell in answer.cells
        if cell.account == "closed_form"
    )
    name = _cards(sizes[0], names).removeprefix("Cards of ")
    of_size = f"Of {name} a card" if len(sizes) == 1 else "Of each card"
    return [
        f"Sequences a device of {answer.sequence_length} tokens, {_switches(answer.switches)}; "
        "one card: single, more: fsdp2. -X GiB: so much is missing for one sequence.",
        f"{of_size}, {RESERVE_GIB:g} GiB is kept for the CUDA context and workspaces; see "
        f"docs/prediction.md. Took {answer.wall_s:.1f} s.",
        *answer.notes,
        *by_formula,
        *refusals,
    ]


def _switches(switches: Switches) -> str:
    attention = switches.attention or "sdpa"
    words = [
        switches.dtype,
        attention,
        "checkpointed" if switches.checkpointing else "not checkpointed",
    ]
    words += ["fused head loss"] if switches.head_loss == "fused" else []
    words += [] if switches.max_grad_norm is None else [f"norm at most {switches.max_grad_norm:g}"]
    words += [] if switches.rank is None else [f"rank {switches.rank}"]
    return ", ".join(words)
