"""An advice for a terminal."""

from __future__ import annotations

import io
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lomo.advise import known
from lomo.advise.answer import Advice, Walls, command, sentence, walls
from lomo.advise.costs import HIGH, LOW, Speed
from lomo.advise.rows import Row
from lomo.forecast.duration import SUSTAINED
from lomo.study.machine import GIB, RESERVE_GIB, budget_bytes

WIDTH, WIDEST = 100, 120
NOT_KNOWN = "not known"
PAGE = "docs/advise.md"
UNITS = (("days", 24 * 3600), ("h", 3600), ("min", 60), ("s", 1))


def as_text(advice: Advice, written: Path | None = None) -> str:
    """Tables and sentences; in colours where the output is a terminal.

    written: the study file that is left.
    """
    on_terminal = sys.stdout.isatty()
    width = min(Console().width, WIDEST) if on_terminal else WIDTH
    console = Console(file=io.StringIO(), width=width, force_terminal=on_terminal, highlight=False)
    console.print(_head(advice), "", sep="\n")
    several = len(advice.question.cards) > 1
    console.print(_cards_table(advice) if several else _table(advice))
    for line in _notes(advice):
        console.print(line)
    if advice.switches:
        console.print("", _switches(advice), sep="\n")
    if advice.walls is not None:
        console.print("", walls(advice), sep="\n")
    console.print("", Text(sentence(advice), style="bold"), sep="\n")
    next_command = command(advice, written)
    if next_command:
        console.print(Text(f"  {next_command}"), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    lines = (line.rstrip() for line in console.file.getvalue().splitlines())
    return "\n".join(lines)


def _head(advice: Advice) -> str:
    question, setting = advice.question, advice.setting
    billions = advice.model.num_parameters / 1e9
    size = f"{billions:.1f} billion" if billions >= 1 else f"{1000 * billions:.1f} million"
    parts = [f"[bold]{advice.model.name}[/bold], {size} weights"]
    if len(question.cards) == 1:
        card, count = question.cards[0], question.num_gpus
        name = card.name if card.flops_per_s("float16") else f"{card.gib:g} GiB"
        each = f"{card.gib:.1f} GiB{' each' if count > 1 else ''}, {RESERVE_GIB:g} kept for CUDA"
        unnamed = name != card.name
        shown = f"card of {card.gib:g} GiB, {RESERVE_GIB:g} of it kept for CUDA" if unnamed else ""
        many = f"{count} x " if count > 1 else "one "
        parts.append(f"{many}{shown or f'{name} ({each})'}")
    million = question.num_examples * question.num_epochs * question.mean_tokens / 1e6
    epochs = f" x {question.num_epochs} epochs" if question.num_epochs > 1 else ""
    longest = f" in the mean, {question.sequence_length:,} at most"
    lines = [", ".join(parts)]
    if question.why_common:
        lines.append(question.why_common)
    lines.append(
        f"{question.num_examples:,} examples{epochs} of {question.mean_tokens:,} tokens"
        f"{'' if question.mean_tokens == question.sequence_length else longest}"
        f": {rounded(million)} million tokens"
    )
    chosen = [
        "bfloat16 weights",
        "checkpointing" if setting.checkpointing else "",
        "fused head loss" if setting.head_loss == "fused" else "",
        f"{setting.attention} attention",
        "each weight split over the cards (FSDP2)" if setting.num_gpus > 1 else "",
    ]
    lines.append(f"Chosen to take least memory: {', '.join(filter(None, chosen))}")
    return "\n".join(lines)


def _table(advice: Advice) -> Table:
    names = "batch", "GiB", "tokens/s", "time", "accuracy beside AdamW"
    table = _columns("method", "fits", *names)
    for row in advice.rows:
        if row.kind.method is None:
            table.add_row(row.kind.title, "not covered", "", "", "", "", row.why)
            continue
        style = "bold" if row.kind is advice.advised else None
        table.add_row(row.kind.title, *_cells(advice, row), _accuracy(advice, row), style=style)
    return table


def _cells(advice: Advice, row: Row) -> list[str]:
    """fits, batch, GiB, tokens/s, time."""
    if not row.fits:
        return ["refused", "", "", "", ""]
    fit, speed = row.fits[0], advice.speeds[row.kind.name][0]
    mark = " *" if row.kind.eight_bit else ""
    if not fit.batch_size:
        return [f"lacks {_lacking(fit.missing_bytes)} GiB{mark}", "", "", "", ""]
    cells = [f"yes{mark}", f"{fit.batch_size:,}", _gib(fit.peak_bytes)]
    if not isinstance(speed, Speed):
        return [*cells, "?", "?"]
    return [*cells, rounded(speed.tokens_per_s), _time(advice, speed)]


def _cards_table(advice: Advice) -> Table:
    """A column a card, where none was given: the largest batch, and the time."""
    table = _columns("method", *(f"{c.name}\n{c.gib:.0f} GiB" for c in advice.question.cards))
    for row in advice.rows:
        cells = []
        for fit, speed in zip(row.fits, advice.speeds[row.kind.name], strict=False):
            time = f", {_time(advice, speed, band=False)}" if isinstance(speed, Speed) else ""
            short = f"-{_lacking(fit.missing_bytes)} GiB"
            cells.append(f"{fit.batch_size:,}{time}" if fit.batch_size else short)
        if cells:
            table.add_row(row.kind.title, *cells)
    return table


def _columns(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="underline")
    table.add_column(first, no_wrap=True)
    for name in others:
        numeric = name.startswith(("batch", "GiB", "tokens", "time"))
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    return table


def _accuracy(advice: Advice, row: Row) -> str:
    found = known.of(row.kind.name)
    if not found:
        return NOT_KNOWN
    told = _told(advice)
    number = rf" \[{told.index(found[0]) + 1}]" if found[0] in told else ""
    return found[0].short + number


def _told(advice: Advice) -> list[known.Fact]:
    """What the notes tell: all that is known of the advised row, one finding of others that fit."""
    if len(advice.question.cards) > 1:
        return []
    fitting = [row.kind for row in advice.rows if row.fit(0)]
    found = [known.of(kind.name)[: None if kind is advice.advised else 1] for kind in fitting]
    return [fact for facts in found for fact in facts]


def _notes(advice: Advice) -> list[str]:
    """What the columns mean, and whose numbers stand in the last."""
    lines = [""]
    basis = {s.basis for speeds in advice.speeds.values() for s in speeds if isinstance(s, Speed)}
    why = {s for speeds in advice.speeds.values() for s in speeds if isinstance(s, str)}
    if advice.question.num_gpus > 1:
        lines.append("Batch and GiB are a card's, tokens/s of all together.")
    if len(advice.question.cards) > 1:
        lines.append(
            "Each cell: the largest batch and the time; -X GiB: so much is missing for one "
            "sequence."
        )
    if "estimate" in basis:
        lines.append(
            f"Speed: estimated at {SUSTAINED:g} of the card's peak rate, in brackets {HIGH:g} and "
            f"{LOW:g}; see {PAGE}."
        )
    lines += [f"Speed {text}." for text in sorted(basis - {"estimate"})]
    lines += [f"Speed: {text}." for text in sorted(why)]
    for card in advice.question.cards if basis else ():
        if card.flops_per_s("bfloat16") is None:
            lines.append(f"The {card.name} has no units for bfloat16: the speed is float16's.")
    most = math.ceil(advice.question.num_examples / advice.question.num_gpus)
    if any(fit.batch_size == most for row in advice.rows for fit in row.fits):
        lines.append("No batch is larger than the number of examples.")
    if any(row.kind.eight_bit for row in advice.rows):
        lines.append(f"* by {known.state_bytes()[1]}, not simulated.")
    if any(row.account == "closed_form" for row in advice.rows):
        lines.append("Activations by a formula: this model's step can't be simulated.")
    lines += [f"{row.kind.title}: {row.why}" for row in advice.rows if row.kind.method and row.why]
    titles = {row.kind.name: row.kind.title for row in advice.rows}
    lines += [
        rf"\[{number}] {titles[fact.method]}: {fact.text} ({fact.source})"
        for number, fact in enumerate(_told(advice), start=1)
    ]
    return lines


def _switches(advice: Advice) -> Table:
    assert advice.advised is not None
    fit = advice.fit(advice.advised)
    assert fit is not None
    table = _columns(
        f"{advice.advised.title} at batch {fit.batch_size}, one switch flipped", "GiB", "time"
    )
    table.columns[1].header = "GiB"
    budget = budget_bytes(advice.question.cards[0].gib)
    table.add_row("as advised", _gib(fit.peak_bytes), "1", "")
    for switch in advice.switches:
        ratio = "?" if switch.time_ratio is None else f"x {switch.time_ratio:.2f}"
        over = "" if switch.peak_bytes <= budget else "does not fit"
        table.add_row(switch.name, _gib(switch.peak_bytes), ratio, over)
    return table


def _gib(num_bytes: int) -> str:
    gib = num_bytes / GIB
    return f"{gib:.1f}" if gib >= 1 else rounded(gib)


def _lacking(missing_bytes: int) -> str:
    """Rounded up: 0.0 would fit."""
    return f"{math.ceil(10 * missing_bytes / GIB) / 10:.1f}"


def _time(advice: Advice, speed: Speed, *, band: bool = True) -> str:
    """Of all examples, in the unit that suits it."""
    question = advice.question
    tokens = question.num_examples * question.num_epochs * question.mean_tokens
    seconds = tokens / speed.tokens_per_s
    if seconds < 1:
        return "under 1 s"
    unit, size = next((unit, size) for unit, size in UNITS if seconds >= size)
    likely, least, longest = (
        rounded(tokens / rate / size) for rate in (speed.tokens_per_s, speed.high, speed.low)
    )
    return f"{likely} {unit} ({least}-{longest})" if band else f"{likely} {unit}"


def rounded(value: float) -> str:
    """Two digits, which is all that an estimate has."""
    if value == 0:
        return "0"
    digits = 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:,.{max(digits, 0)}f}"


def as_json(advice: Advice, written: Path | None = None) -> str:
    """All of it. written: the study file that is left."""
    question = advice.question
    facts = {
        "model": advice.model.name,
        "num_parameters": advice.model.num_parameters,
        "num_gpus": question.num_gpus,
        "num_examples": question.num_examples,
        "num_epochs": question.num_epochs,
        "mean_tokens": question.mean_tokens,
        "setting": asdict(advice.setting),
        "reserve_gib": RESERVE_GIB,
        "rows": [_row(advice, row) for row in advice.rows],
        "advised": None if advice.advised is None else advice.advised.name,
        "switches": [asdict(switch) for switch in advice.switches],
        "walls": None if advice.walls is None else _walls(advice.walls),
        "enough_cards": advice.enough_cards,
        "advice": sentence(advice),
        "command": command(advice, written),
        "wall_s": round(advice.wall_s, 1),
    }
    return json.dumps(facts, indent=1)


def _row(advice: Advice, row: Row) -> dict[str, Any]:
    question = advice.question
    tokens = question.num_examples * question.num_epochs * question.mean_tokens
    cards = []
    speeds = advice.speeds[row.kind.name]
    for card, fit, speed in zip(question.cards, row.fits, speeds, strict=False):
        known_speed = isinstance(speed, Speed)
        cards.append(
            {
                "card": card.name,
                "gib": card.gib,
                **asdict(fit),
                "speed": asdict(speed) if isinstance(speed, Speed) else None,
                "seconds": tokens / speed.tokens_per_s if isinstance(speed, Speed) else None,
                "why_no_speed": None if known_speed else speed or "it does not fit",
            }
        )
    return {
        "name": row.kind.name,
        "title": row.kind.title,
        "account": row.account,
        "state_by": known.state_bytes()[1] if row.kind.eight_bit else None,
        "why": row.why,
        "cards": cards,
        "accuracy": [asdict(fact) for fact in known.of(row.kind.name)],
    }


def _walls(walls: Walls) -> dict[str, Any]:
    card = walls.smallest_card
    return {
        "longest_sequence": walls.longest_sequence,
        "smallest_card": None if card is None else card.name,
        "peak_of_one_bytes": walls.peak_of_one_bytes,
    }
