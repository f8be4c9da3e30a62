"""An advice as JSON, in bytes and seconds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lomo.advise import eight_bit, known
from lomo.advise.answer import Advice, Walls
from lomo.advise.rows import Row
from lomo.advise.sentence import command, sentence
from lomo.advise.speed import Speed
from lomo.machine import RESERVE_GIB


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
        "state_by": eight_bit.state_bytes()[1] if row.kind.eight_bit else None,
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
