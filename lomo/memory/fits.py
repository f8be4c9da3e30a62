"""The command `fits`: the largest batch of each model and method on cards of a given size."""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.memory import ask

if TYPE_CHECKING:
    from lomo.memory.architecture import Architecture
    from lomo.plan import MeasureSpec

# The CUDA context and workspaces, which no prediction has in it; see docs/prediction.md.
RESERVE_GIB = 1.0
# Layer counts from which the peak of all layers follows: from four on, a layer more takes as much
# as the one before, also where FSDP2 gathers ahead.
LAYERS = (4, 6)
ALIKE = frozenset({"llama"})  # model types whose layers are known to be all alike
FIRST_PROBE, LARGEST_STRIDE = 4, 16


@dataclass(frozen=True)
class Cell:
    """One model and method on `num_gpus` cards: what fits, or why nothing does.

    batch_size: sequences a device, 0 where not even one fits. peak_bytes: predicted at that batch,
    or at 1 where none fits; missing_bytes: of it beyond the card, then. refused: why the engine or
    the method can't run it.
    """

    model: str
    method: str
    num_gpus: int
    batch_size: int
    peak_bytes: int
    missing_bytes: int
    refused: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `fits`."""
    parser.add_argument("--gpu", type=float, required=True, metavar="GIB", help="a card's GiB")
    parser.add_argument("--gpus", type=int, default=1, help="cards: 1, 2, 4, ... up to so many")
    parser.add_argument("--models", nargs="+", help="as of `predict` (default: the paper's four)")
    parser.add_argument("--methods", nargs="+", help="method ids (default: all that train)")
    parser.add_argument("--sequence", type=int, default=1024, help="tokens a sequence")
    parser.add_argument("--json", action="store_true", help="every cell, in bytes")


def answer(options: argparse.Namespace, *, progress: bool) -> str:
    """What fits, as text. Raises UserError for what cannot be asked."""
    started_at = time.perf_counter()
    architectures, methods = _check(options)
    budget_bytes = int((options.gpu - RESERVE_GIB) * ask.GIB)
    questions = [
        (architecture, method, num_gpus)
        for num_gpus in card_counts(options.gpus)
        for architecture in architectures
        for method in methods
    ]
    cells = [
        _cell(*question, options.sequence, budget_bytes)
        for question in _shown(questions, progress=progress)
    ]
    facts = {
        "gpu_gib": options.gpu,
        "reserve_gib": RESERVE_GIB,
        "sequence_length": options.sequence,
        "wall_s": round(time.perf_counter() - started_at, 1),
    }
    if options.json:
        return json.dumps({**facts, "cells": [asdict(cell) for cell in cells]}, indent=1)
    return "\n".join([*_table(cells, methods), *_notes(cells, options, facts["wall_s"])])


def card_counts(num_gpus: int) -> list[int]:
    """1, 2, 4, ... below `num_gpus`, and `num_gpus`."""
    return sorted({2**power for power in range((num_gpus - 1).bit_length())} | {num_gpus})


def largest_fit(
    architecture: Architecture, spec: MeasureSpec, budget_bytes: int
) -> tuple[int, int]:
    """The largest batch of `spec` within the budget (0: none), and its peak in bytes (0: of 1).

    Searched on the peaks of a few layers, where the layers are alike; then the answer is predicted
    with all of them, and searched anew with all of them if it was too large. It can't be too small:
    a phase's peak is the highest of moments, each a line in the layers, so the line through two
    layer counts is never above it.
    """

    @cache
    def whole(batch_size: int) -> int:
        return whole_peak(architecture, spec.model_copy(update={"batch_size": batch_size}))

    @cache
    def from_few(batch_size: int) -> int:
        return peak_from_few(architecture, spec.model_copy(update={"batch_size": batch_size}))

    config = architecture.config
    if config.model_type in ALIKE and config.num_hidden_layers > LAYERS[1]:
        batch_size = largest_batch(from_few, budget_bytes)
        if not batch_size:
            return 0, from_few(1)
        if whole(batch_size) <= budget_bytes:
            return batch_size, whole(batch_size)
    batch_size = largest_batch(whole, budget_bytes)
    return batch_size, whole(max(batch_size, 1))


def largest_batch(peak: Callable[[int], int], budget_bytes: int) -> int:
    """The largest batch whose peak is within the budget, 0 if not even 1 is.

    peak: batch -> bytes, never falling. Asked few times if it is (nearly) a line, and always at
    the answer and at one more.
    """
    fits = (1, peak(1))
    above: tuple[int, int] | None = None
    if fits[1] > budget_bytes:
        return 0
    probe, num_slow = FIRST_PROBE, 0
    while True:
        before, width = fits, above[0] - fits[0] if above else 0
        point = (probe, peak(probe))
        if point[1] > budget_bytes:
            above = point
        else:
            fits = point
        if above is None:
            guess = _crossing(before, fits, budget_bytes)
            probe = min(max(guess, fits[0] + 1), LARGEST_STRIDE * fits[0])
            continue
        left = above[0] - fits[0]
        if left == 1:
            return fits[0]
        num_slow = num_slow + 1 if 2 * left > width > 0 else 0
        guess = _crossing(fits, above, budget_bytes) if num_slow < 2 else fits[0] + left // 2
        probe = min(max(guess, fits[0] + 1), above[0] - 1)


def _crossing(low: tuple[int, int], high: tuple[int, int], budget_bytes: int) -> int:
    """The last batch within the budget, on the line through two points (batch, bytes)."""
    rise = high[1] - low[1]
    if rise <= 0:
        return LARGEST_STRIDE * high[0]
    return low[0] + (budget_bytes - low[1]) * (high[0] - low[0]) // rise


def whole_peak(architecture: Architecture, spec: MeasureSpec) -> int:
    """The predicted peak of all layers, in bytes."""
    from lomo.memory.predict import predict

    return predict(architecture, spec).ledger.peak_bytes


def peak_from_few(architecture: Architecture, spec: MeasureSpec) -> int:
    """The same in bytes, phase by phase on the line through the peaks of two small layer counts."""
    few, more = (_phase_peaks(architecture, spec, num_layers) for num_layers in LAYERS)
    beyond = architecture.config.num_hidden_layers - LAYERS[0]
    between = LAYERS[1] - LAYERS[0]
    return max(few[phase] + (more[phase] - few[phase]) * beyond // between for phase in few)


def _phase_peaks(architecture: Architecture, spec: MeasureSpec, num_layers: int) -> dict[str, int]:
    from lomo.memory.architecture import Architecture
    from lomo.memory.predict import predict

    config = copy.deepcopy(architecture.config)
    config.num_hidden_layers = num_layers
    ledger = predict(Architecture(architecture.name, config), spec).ledger
    return ledger.phase_peak_bytes or {"": ledger.peak_bytes}


def _cell(
    architecture: Architecture, method: str, num_gpus: int, sequence: int, budget_bytes: int
) -> Cell:
    question = argparse.Namespace(
        model=architecture.name,
        method=method,
        seq_len=sequence,
        batch_size=1,
        checkpointing=True,
        dtype="bfloat16",
        attention="sdpa",
        max_grad_norm=None,
        engine="single" if num_gpus == 1 else "fsdp2",
        world_size=num_gpus,
        wrap="layer",
    )
    try:
        batch_size, peak_bytes = largest_fit(architecture, ask.spec_of(question), budget_bytes)
    except UserError as error:
        return Cell(architecture.name, method, num_gpus, 0, 0, 0, refused=error.what)
    missing_bytes = max(peak_bytes - budget_bytes, 0)
    return Cell(architecture.name, method, num_gpus, batch_size, peak_bytes, missing_bytes)


def _check(options: argparse.Namespace) -> tuple[list[Architecture], list[str]]:
    from lomo import methods
    from lomo.models import registry

    if not 0 < options.gpu < math.inf:
        raise UserError(f"a card of {options.gpu:g} GiB", where="--gpu", allowed="above 0")
    if options.gpus < 1:
        raise UserError(f"{options.gpus} cards", where="--gpus", allowed="at least 1")
    if options.sequence < 1:
        raise UserError(f"{options.sequence} tokens", where="--sequence", allowed="at least 1")
    trained = [method for method in methods.modules() if methods.describe(method).trains]
    for method in options.methods or ():
        methods.check_name(method, where="--methods")
        if method not in trained:
            raise UserError(
                f"{method} takes no training step", where="--methods", allowed=", ".join(trained)
            )
    from lomo.memory.architecture import read_architecture

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
    return architectures, list(dict.fromkeys(options.methods or trained))


Question = tuple["Architecture", str, int]


def _shown(questions: Sequence[Question], *, progress: bool) -> Iterator[Question]:
    """Each question in turn, with a bar on stderr that names it."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    hidden = not (progress and console.is_terminal)
    with Progress(console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task("", total=len(questions))
        for question in questions:
            architecture, method, num_gpus = question
            bar.update(task, description=f"{architecture.name} {method} x {num_gpus}")
            yield question
            bar.advance(task)


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
    return str(cell.batch_size) if cell.batch_size else f"-{cell.missing_bytes / ask.GIB:.1f} GiB"


def _notes(cells: Sequence[Cell], options: argparse.Namespace, wall_s: object) -> list[str]:
    refusals = dict.fromkeys(
        f"refused: {cell.model}, {cell.method}, {cell.num_gpus}: {cell.refused}"
        for cell in cells
        if cell.refused is not None
    )
    return [
        f"Sequences a device of {options.sequence} tokens, bfloat16, sdpa, checkpointed; one card: "
        "single, more: fsdp2. -X GiB: so much is missing for one sequence.",
        f"Of {options.gpu:g} GiB a card, {RESERVE_GIB:g} is kept for the CUDA context and "
        f"workspaces; see docs/prediction.md. Took {wall_s} s.",
        *refusals,
    ]
