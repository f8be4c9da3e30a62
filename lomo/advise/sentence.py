"""The one sentence of an advice, and the command that acts on it."""

from __future__ import annotations

import shlex
from pathlib import Path

from lomo.advise.answer import Advice
from lomo.advise.costs import CLIPPED, smallest_card

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
