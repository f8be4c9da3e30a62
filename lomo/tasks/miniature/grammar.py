"""Sentences about the small world that both the pretraining text and the tasks are made of."""

import random

from lomo.tasks.miniature.lexicon import Kind


def indefinite(noun: str) -> str:
    """The noun with "a" or "an" before it, by its first letter."""
    article = "an" if noun[0] in "aeiou" else "a"
    return f"{article} {noun}"


def capitalized(sentence: str) -> str:
    """The sentence with its first letter in upper case."""
    return sentence[0].upper() + sentence[1:]


def action_at_place(rng: random.Random, kind: Kind) -> str:
    """What a thing of this kind did and where: "pecked in the treetop"."""
    past, _ = rng.choice(kind.actions)
    return f"{past} {rng.choice(kind.places)}"


def habit_sentence(rng: random.Random, noun: str, kind: Kind) -> str:
    """A sentence that says of the noun what holds for things of this kind."""
    past, base = rng.choice(kind.actions)
    place = rng.choice(kind.places)
    thing = indefinite(noun)
    past2, _ = rng.choice(kind.actions)
    other = rng.choice(kind.nouns)
    return capitalized(
        rng.choices(
            (
                f"the {noun} {past}.",
                f"the {noun} {past} {place}.",
                f"the {noun} {past} and {past2}.",
                f"the {noun} was {place}.",
                f"{thing} can {base}.",
                f"{thing} is {indefinite(kind.name)}.",
                f"it {past} {place}.",
                f"it {past}, and it was the {noun}.",
                f"{place} was the {noun}.",
                f"the {noun} and the {other} {past}.",
                f"the {kind.plural} {past} {place}.",
            ),
            (5, 2, 3, 1, 2, 3, 1, 1, 1, 3, 1),
        )[0]
    )
