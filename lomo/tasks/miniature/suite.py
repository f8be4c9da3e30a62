"""A suite on the small world in MMLU's file layout: of what kind is the thing that was told of?

The pretraining text says it now and then behind `Answer:`, so a base model knows some of it; the
subjects differ in what the kind has to be told from.
"""

import csv
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from lomo.system.files import whole
from lomo.tasks.miniature.grammar import capitalized, indefinite
from lomo.tasks.miniature.lexicon import DAYS, DEEDS, KINDS, PEOPLE, TWO_SENSES, Kind

NUM_DEV, NUM_TEST = 5, 40
NUM_CHOICES = 4
_LETTERS = "ABCD"


def write_suite(folder: str | Path, *, seed: int) -> list[str]:
    """Write `folder`/{dev,test}/SUBJECT_{dev,test}.csv, and give the subjects.

    A row has a question, four kinds and the letter of the right one; no header. No question stands
    twice in a subject, and the right answers are spread over letters and kinds. The same seed gives
    the same bytes.
    """
    for subject, ask in _SUBJECTS.items():
        rows = _rows(random.Random(f"suite {subject} {seed}"), ask)
        for split, number in (("dev", NUM_DEV), ("test", NUM_TEST)):
            path = Path(folder, split, f"{subject}_{split}.csv")
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows(next(rows) for _ in range(number))
    return list(_SUBJECTS)


def _rows(rng: random.Random, ask: Callable[[random.Random, Kind], str]) -> Iterator[list[str]]:
    seen: set[str] = set()
    number = 0
    while True:
        kind = KINDS[number % len(KINDS)]
        question = ask(rng, kind)
        if question in seen:
            continue
        seen.add(question)
        others = rng.sample([other.name for other in KINDS if other is not kind], NUM_CHOICES - 1)
        place = (number + number // len(KINDS)) % NUM_CHOICES
        choices = [*others[:place], kind.name, *others[place:]]
        yield [question, *choices, _LETTERS[place]]
        number += 1


def _names(rng: random.Random, kind: Kind) -> str:
    """By the thing's name."""
    return f"{rng.choice(PEOPLE)} {rng.choice(DEEDS)} {indefinite(rng.choice(kind.nouns))}."


def _days(rng: random.Random, kind: Kind) -> str:
    """By the name of the one that was told of last."""
    noun, other = rng.choice(kind.nouns), rng.choice(rng.choice(KINDS).nouns)
    day, person, deed = rng.choice(DAYS), rng.choice(PEOPLE), rng.choice(DEEDS)
    return f"On {day} {person} {deed} the {other} and the {noun}."


def _habits(rng: random.Random, kind: Kind) -> str:
    """By what it did, and where."""
    past, _ = rng.choice(kind.actions)
    return capitalized(f"it {past} {rng.choice(kind.places)}.")


def _senses(rng: random.Random, kind: Kind) -> str:
    """By what a word of two senses did."""
    word = rng.choice([word for word, kinds in TWO_SENSES.items() if kind in kinds])
    past, _ = rng.choice(kind.actions)
    return f"The {word} {past} {rng.choice(kind.places)}."


_SUBJECTS = {"names": _names, "pairs": _days, "habits": _habits, "senses": _senses}
