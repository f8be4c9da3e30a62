"""What fits, as a table for a terminal and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from lomo.memory.asked.cells import Cell, Switches
from lomo.memory.asked.fitting import Answer, Hint
from lomo.study.machine import GIB, RESERVE_GIB


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
