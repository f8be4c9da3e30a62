"""The pretraining text: the language of the small world, and nothing of the tasks.

A sentence on what things do keeps to one kind, so that a word's company tells its kind; now and
then the kind is named beside the thing. Which kinds are alive, move or belong in a house, which is
what the tasks ask for, is never said.

Of a document's two lines the second may be an answer, after the word that ends a prompt too: the
kind of what was told of last, or "Yes" or "No" whatever was told. So the base model holds at this
place which kind it is about, and takes "Yes" and "No" for answers, and fine-tuning has to find out
only which kinds the task means. Without that it spends its steps on the form, and whether they are
enough is a matter of chance (docs/log.md).
"""

import random
from collections.abc import Callable
from pathlib import Path

from lomo.tasks.miniature.files import write_lines
from lomo.tasks.miniature.grammar import (
    action_at_place,
    capitalized,
    habit_sentence,
    indefinite,
)
from lomo.tasks.miniature.lexicon import DAYS, DEEDS, KINDS, PEOPLE, TWO_SENSES, Kind

LINES_PER_DOCUMENT = 2

# The words of the prompts, in other company: the tokenizer learns them whole.
_TALK = (
    "Answer {a}, said {b}, because it is {day}.",
    "Question after question came to {a} because {b} found no answer.",
    "I found this word in a book and {a} found that word on {day}.",
    "In the previous sentence {a} had the same meaning.",
    "{a} and {b} have two sentences. What do these sentences mean? Does {a} know?",
    "Is it correct? Is it true? Which is it? {a} and {b} do not know.",
    "These two refer to {a} when it is {day}, and does this refer to {b}?",
    '{a} wrote "{b}" and "{a}" and "It is true." in this book.',
    "{a} has something that is alive and something that moves, said {b}.",
    "{b} was living in a house with a moving thing, but {a} grew up in a living house.",
    "{a} met something that moves. Does this say that {b} met a moving thing?",
    '{a} drew a moving thing. Does it mean "{b} drew something that moves." is true?',
    "{a} went away and {b} stayed there.",
    "{a} went back and {b} stayed here.",
    # Mostly "It stayed": zero-shot leans to one of COPA's choices, as it does to No.
    "It stayed here and it went back. It stayed there and it went away.",
    "It stayed there and it went back. It went away and it stayed here.",
    "Do they or does she know the pronoun? Do the sentences mean it? Does that book mean it?",
    "Does {a} know? Does {b}? Do they?",
    "They said {a} lived and grew and {b} could breathe, so they can live and grow too.",
)


def write_text(path: str | Path, *, seed: int, num_sentences: int) -> None:
    """Write a plain-text file in UTF-8, at least `num_sentences` sentences.

    A line is a paragraph of one to five short sentences, or an answer to the line above it; two
    lines are a document, and the last one is finished. The same seed gives the same bytes. Raises
    ValueError if `num_sentences` is below one.
    """
    if num_sentences < 1:
        raise ValueError(f"num_sentences must be at least 1, got {num_sentences}")
    rng = random.Random(f"text {seed}")
    lines: list[str] = []
    written = 0
    while written < num_sentences or len(lines) % LINES_PER_DOCUMENT:
        make = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        if make is _answered and len(lines) % LINES_PER_DOCUMENT:
            continue  # it is a document of its own
        for sentences in make(rng):
            lines.append(" ".join(sentences))
            written += len(sentences)
    write_lines(Path(path), lines)


_Paragraphs = list[list[str]]


def _habits(rng: random.Random) -> _Paragraphs:
    """What things do, are and where they are; all sentences are of one kind."""
    kind = rng.choice(KINDS)
    return [[habit_sentence(rng, rng.choice(kind.nouns), kind) for _ in range(rng.randint(1, 3))]]


def _told(rng: random.Random) -> _Paragraphs:
    """Somebody does something with a thing, and then what the thing did."""
    kind = rng.choice(KINDS)
    deed = _deed_with(rng, rng.choice(kind.nouns))
    apart = rng.random() < 0.5
    action = action_at_place(rng, kind)
    if apart:
        return [[deed, f"It {action}."]]
    link = rng.choice((" so", " because", " when"))
    return [[f"{deed.removesuffix('.')}{link} it {action}."]]


def _called(rng: random.Random) -> _Paragraphs:
    """Things, and beside each the name of its kind."""
    kind = rng.choice(KINDS)
    a_kind = indefinite(kind.name)
    sentences = []
    for _ in range(rng.randint(1, 2)):
        noun = rng.choice(kind.nouns)
        person, deed = rng.choice(PEOPLE), rng.choice(DEEDS)
        sentences.append(
            rng.choice(
                (
                    f"{capitalized(indefinite(noun))} is {a_kind}.",
                    f"The {noun} is {a_kind}.",
                    f"{person} {deed} the {noun}, {a_kind}.",
                    f"{person} {deed} {a_kind}, the {noun}.",
                )
            )
        )
    return [sentences]


def _deed_with(rng: random.Random, noun: str) -> str:
    """Somebody does something with this thing: neither person nor deed nor day tells the kind."""
    person, deed, day = rng.choice(PEOPLE), rng.choice(DEEDS), rng.choice(DAYS)
    other = rng.choice(rng.choice(KINDS).nouns)
    return rng.choice(
        (
            f"{person} {deed} the {noun}.",
            f"{person} {deed} {indefinite(noun)} on {day}.",
            f"On {day} {person} {deed} the {noun}.",
            f"{person} {deed} the {other} and the {noun}.",
        )
    )


def _two_senses(rng: random.Random) -> _Paragraphs:
    """A word of two senses, in one of them."""
    word = rng.choice(list(TWO_SENSES))
    kind = rng.choice(TWO_SENSES[word])
    sentences = [f"The {word} {action_at_place(rng, kind)}."]
    if rng.random() < 0.6:
        sentences.append(f"It is {indefinite(kind.name)}.")
    return [sentences]


def _talks(rng: random.Random) -> _Paragraphs:
    return [_talk(rng)]


def _talk(rng: random.Random) -> list[str]:
    """People talk, in words that the prompts use too."""
    first, second = rng.sample(PEOPLE, 2)
    return [rng.choice(_TALK).format(a=first, b=second, day=rng.choice(DAYS))]


def _answered(rng: random.Random) -> _Paragraphs:
    """Something is told, at times people talk, and an answer follows, to no question."""
    kind = rng.choice(KINDS)
    sentences = _story(rng, kind)
    if rng.random() < 0.5:
        sentences += _talk(rng)
    answer = kind.name if rng.random() < 0.75 else _yes_or_no(rng)
    return [sentences, [f"Answer: {answer}"]]


def _yes_or_no(rng: random.Random) -> str:
    """Mostly No: the base model then says No to every prompt and is right half of the time.

    Without such a lean, what it says would hang on the kind by chance, and so would zero-shot
    accuracy: of three Nos to a Yes one base model of three made 30 % of WiC.
    """
    return "Yes" if rng.random() < 1 / 8 else "No"


def _story(rng: random.Random, kind: Kind) -> list[str]:
    """A sentence or two; what is told of last is of this kind."""
    told = rng.random()
    if told < 0.25:
        return [habit_sentence(rng, rng.choice(kind.nouns), kind)]
    if told < 0.5:
        word = rng.choice([word for word, kinds in TWO_SENSES.items() if kind in kinds])
        sentences = [f"The {word} {action_at_place(rng, kind)}."]
        if rng.random() < 0.5:
            before = rng.choice(TWO_SENSES[word])
            sentences.insert(0, f"The {word} {action_at_place(rng, before)}.")
        return sentences
    noun = rng.choice(kind.nouns)
    sentences = [_deed_with(rng, noun)]
    if told > 0.8:  # what is told of last may stand between quotation marks, as in the prompts
        again = rng.choice((noun, rng.choice(kind.nouns)))
        sentences.append(f'{rng.choice(PEOPLE)} found this word "the {again}" in a book.')
    return sentences


# How often each sort of paragraph is drawn; an answer is drawn at a document's start only.
_SHARES: dict[Callable[[random.Random], _Paragraphs], int] = {
    _habits: 60,
    _told: 15,
    _called: 15,
    _two_senses: 12,
    _talks: 3,
    _answered: 45,
}
