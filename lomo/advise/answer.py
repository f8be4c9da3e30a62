"""From a question to an advice: rows, speeds, for the advised one switches and walls.

And the one sentence of it, with the command that acts on it.
"""

from __future__ import annotations

import gc
import math
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from lomo.advise import known
from lomo.advise.costs import (
    CLIPPED,
    Model,
    Speed,
    Switch,
    flipped,
    longest_sequence,
    peak_at,
    smallest_card,
    speed_of,
    time_ratio,
)
from lomo.advise.question import Question
from lomo.advise.rows import Fit, Row, RowKind, Setting, cheapest, rows_of
from lomo.errors import UserError
from lomo.study.cards import Card
from lomo.study.machine import budget_bytes
from lomo.system.command import shown

# Each process takes up to 0.2 GiB of its own; all together are to stay below 1 GiB.
MOST_PROCESSES = 3
MORE_CARDS = (2, 4, 8)
Found = TypeVar("Found")


@dataclass(frozen=True)
class Walls:
    """Where each axis ends for the advised row. longest_sequence: at a batch of 1, about."""

    longest_sequence: int | None
    smallest_card: Card | None
    peak_of_one_bytes: int


@dataclass(frozen=True)
class Advice:
    """The answer. speeds: by row name, one a card: None where it doesn't fit, text where unknown.

    advised: the row that is advised, None where none fits that a study can run (or cards are not
    one); enough_cards: how many of that card would hold a sequence of the `nearest` row then.
    """

    question: Question
    setting: Setting
    model: Model
    rows: Sequence[Row]
    speeds: Mapping[str, Sequence[Speed | str | None]]
    advised: RowKind | None
    switches: Sequence[Switch]
    walls: Walls | None
    nearest: RowKind | None
    enough_cards: int | None
    wall_s: float

    def fit(self, kind: RowKind) -> Fit | None:
        """How a row fits the first card."""
        return next(row.fit(0) for row in self.rows if row.kind is kind)


def advice_of(question: Question, *, progress: bool) -> Advice:
    """The answer to a question. Raises UserError for cards that can't share the model."""
    from lomo.model.architecture import count_parameters, without_bytes

    started_at = time.perf_counter()
    architecture, config = question.architecture, question.architecture.config
    setting = cheapest(architecture, question.sequence_length, question.num_gpus)
    _check_share(without_bytes(architecture), question.num_gpus)
    tied = {"tie_word_embeddings": bool(getattr(config, "tie_word_embeddings", False))}
    model = Model(architecture.name, config.to_dict() | tied, count_parameters(architecture))
    rows = _rows(question, setting, model.num_parameters, progress)
    speeds = {row.kind.name: _speeds(question, setting, model, row) for row in rows}
    advised = _advised(rows) if question.why_common is None else None
    nearest = _nearest(rows) if question.why_common is None and advised is None else None
    switches: Sequence[Switch] = ()
    walls = enough_cards = None
    if advised is not None:
        fit = next(row.fit(0) for row in rows if row.kind is advised)
        assert fit is not None
        switches, walls = _around(question, setting, model, advised, fit, progress)
    elif nearest is not None:
        enough_cards = _enough_cards(question, setting, nearest, progress)
    return Advice(
        question=question,
        setting=setting,
        model=model,
        rows=rows,
        speeds=speeds,
        advised=advised,
        switches=switches,
        walls=walls,
        nearest=nearest,
        enough_cards=enough_cards,
        wall_s=time.perf_counter() - started_at,
    )


def _check_share(model: object, num_gpus: int) -> None:
    """FSDP2 splits each weight by rows: more cards than rows would leave some with nothing."""
    named = model.named_parameters()  # type: ignore[attr-defined]
    name, parameter = min(((n, p) for n, p in named if p.dim()), key=lambda pair: pair[1].shape[0])
    if parameter.shape[0] < num_gpus:
        raise UserError(
            f"{num_gpus} cards can't share the {parameter.shape[0]} rows of {name}",
            where="--gpus",
            allowed=f"at most {parameter.shape[0]}",
        )


def _rows(question: Question, setting: Setting, num_parameters: int, progress: bool) -> list[Row]:
    gibs = [card.gib for card in question.cards]
    steps: dict[tuple[object, ...], list[RowKind]] = {}
    for kind in question.rows:
        if kind.method is not None:
            steps.setdefault((kind.method, str(kind.hyper)), []).append(kind)
    architecture = question.architecture
    most = math.ceil(question.num_examples / question.num_gpus)
    groups = sorted(steps.values(), key=lambda kinds: kinds[0].name in ("sgd", "adamw"))
    work = {
        kinds[0].title: partial(rows_of, kinds, architecture, setting, gibs, num_parameters, most)
        for kinds in groups
    }
    made = {row.kind.name: row for rows in _in_parallel(work, progress).values() for row in rows}
    return [made.get(kind.name) or Row(kind, why=kind.look) for kind in question.rows]


def _speeds(
    question: Question, setting: Setting, model: Model, row: Row
) -> list[Speed | str | None]:
    found: list[Speed | str | None] = []
    for place, card in enumerate(question.cards):
        fit = row.fit(place)
        if fit is None:
            found.append(None)
            continue
        shape = fit.batch_size, question.mean_tokens
        found.append(speed_of(row.kind, setting, card, model, *shape))
    return found


def _advised(rows: Sequence[Row]) -> RowKind | None:
    fitting = {row.kind.name: row.kind for row in rows if row.kind.runs and row.fit(0)}
    return next((fitting[name] for name in known.order() if name in fitting), None)


def _nearest(rows: Sequence[Row]) -> RowKind | None:
    lacking = [row for row in rows if row.kind.runs and row.fits]
    return min(lacking, key=lambda row: row.fits[0].missing_bytes).kind if lacking else None


def _around(
    question: Question,
    setting: Setting,
    model: Model,
    kind: RowKind,
    fit: Fit,
    progress: bool,
) -> tuple[list[Switch], Walls]:
    """What one flip costs, and how far each axis goes, at the advised row's batch."""
    architecture, card = question.architecture, question.cards[0]
    flips = flipped(setting)
    work = {
        name: partial(peak_at, kind, architecture, flip, fit.batch_size)
        for name, flip in flips.items()
    }
    switches = []
    for name, peak in _in_parallel(work, progress).items():
        if peak is not None:
            ratio = time_ratio(kind, setting, flips[name], card, model, fit.batch_size)
            switches.append(Switch(name, peak, ratio))
    switches.sort(key=lambda switch: list(flips).index(switch.name))
    longest = None
    if setting.attention != "eager":
        budget = budget_bytes(card.gib)
        longest = longest_sequence(fit, setting.sequence_length, budget, question.positions)
    return switches, Walls(longest, smallest_card(fit.one_bytes), fit.one_bytes)


def _enough_cards(
    question: Question, setting: Setting, kind: RowKind, progress: bool
) -> int | None:
    """How many of the card hold one sequence each, None where not even the most tried do."""
    budget = budget_bytes(question.cards[0].gib)
    for count in (count for count in MORE_CARDS if count > question.num_gpus):
        spread = replace(setting, num_gpus=count)
        once = partial(peak_at, kind, question.architecture, spread, 1)
        work = {f"{kind.title} on {count} cards": once}
        (peak,) = _in_parallel(work, progress).values()
        if peak is not None and peak <= budget:
            return count
    return None


def _in_parallel(work: Mapping[str, Callable[[], Found]], progress: bool) -> dict[str, Found]:
    """Does each piece, in forked processes; the results by name."""
    from lomo.system import processes

    names = list(work)

    def do(number: int) -> tuple[str, Found]:
        found = work[names[number]]()
        gc.collect()  # a simulated model has cycles
        return names[number], found

    gc.freeze()  # what is shared is not looked through, and so not copied, by each process
    gc.disable()  # a tenth of the time; each piece is cleaned up behind
    num_processes = min(len(os.sched_getaffinity(0)), MOST_PROCESSES)
    arriving = processes.results(do, len(names), num_processes)
    try:
        named = shown(arriving, len(names), lambda result: result[0], progress=progress)
        return dict(result for _, result in named)
    finally:
        gc.enable()
        gc.unfreeze()


# Why this row: what follows its name.
WHY = {
    "adamw": "the standard, with all weights trained",
    "lomo": "all weights trained in the memory of the weights; clip the gradient norm at 1{longer} "
    "and try rates of 0.03 and 0.05, as the paper did",
    "lora_lomo": "all weights and adapters trained",
    "adalomo": "all weights trained, rates of 5e-4 to 1e-3",
    "lora": "adapters, a rate of 5e-4",
    "sgd": "all weights trained, without state",
}


def sentence(advice: Advice) -> str:
    """What to do."""
    question = advice.question
    if question.why_common:
        return "Advice: name your card for speeds, the price of each switch and a study file."
    card = question.cards[0]
    if advice.advised is not None:
        fit = advice.fit(advice.advised)
        assert fit is not None
        sequences = "sequence" if fit.batch_size == 1 else "sequences"
        a_card = " a card" if question.num_gpus > 1 else ""
        clipped = next((s for s in advice.switches if s.name == CLIPPED and s.time_ratio), None)
        longer = "" if clipped is None else f" (x {clipped.time_ratio:.1f} time)"
        why = WHY[advice.advised.name].format(longer=longer)
        step = f"{fit.batch_size:,} {sequences}{a_card} a step"
        return f"Advice: {advice.advised.title} with {step}: {why}."
    if advice.nearest is None:
        return "Advice: ask with --methods for one that this project runs, such as lomo."
    row = next(row for row in advice.rows if row.kind is advice.nearest)
    enough = smallest_card(row.fits[0].peak_bytes)
    ways = [f"{advice.enough_cards} such cards"] if advice.enough_cards else []
    if enough is not None and enough.gib > card.gib:
        ways.append(f"a card of {enough.gib:.0f} GiB ({enough.name})")
    would = f" {row.kind.title} would on {', or on '.join(ways)}." if ways else ""
    return f"Advice: nothing fits.{would} QLoRA takes less, and is not covered here."


def walls(advice: Advice) -> str:
    """How far the advised row goes on this card."""
    ends, question = advice.walls, advice.question
    assert ends is not None and advice.advised is not None
    fit = advice.fit(advice.advised)
    assert fit is not None
    a_card = " a card" if question.num_gpus > 1 else ""
    many = "sequence" if fit.batch_size == 1 else "sequences"
    parts = [f"{fit.batch_size:,} {many} of {question.sequence_length:,} tokens{a_card}"]
    if ends.longest_sequence is not None:
        whole = ends.longest_sequence == question.positions
        alone = f"one of {'' if whole else 'about '}{ends.longest_sequence:,}"
        parts.append(f"{alone} (the model's longest)" if whole else alone)
    smallest = ""
    if ends.smallest_card is not None and question.num_gpus == 1:
        card = ends.smallest_card
        size = f"{card.name}, {card.gib:.0f} GiB"
        smallest = f" The smallest card that takes one of {question.sequence_length:,}: {size}."
    most = ", or ".join(parts)
    return f"The ends: {advice.advised.title} takes at most {most}.{smallest}"


def command(advice: Advice, written: Path | None = None) -> str:
    """The command that measures the advised row on the card, or asks for what would fit."""
    question = advice.question
    if written is not None and advice.advised is not None:
        return f"snakemake --cores all --configfile {shlex.quote(str(written))}"
    if question.why_common:
        return f"{question.asked} --gpu 'RTX 4090'"
    if advice.advised is not None:
        name = "my.yaml"
        return f"{question.asked} --write {name} && snakemake --cores all --configfile {name}"
    if advice.enough_cards:
        words = question.asked.split(" --gpus ")[0] if question.num_gpus > 1 else question.asked
        return f"{words} --gpus {advice.enough_cards}"
    return ""
