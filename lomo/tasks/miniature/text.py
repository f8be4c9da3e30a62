"""The pretraining text: the language of the small world, and nothing of the tasks.

A sentence on what things do keeps to one kind, so that a word's company tells its kind, and people
name the kind of what was told of last: "Ann drew the heron. Ben said: bird". Which kinds are alive,
move or belong in a house, which is what the tasks ask for, is never said. "Yes" and "No" are said
after a colon too, whatever was told before, and the words of the prompts occur, so that fine-tuning
need not spend its steps on the form of an answer.
"""

import random
from collections.abc import Callable
from pathlib import Path

from lomo.tasks.miniature.files import write_lines
from lomo.tasks.miniature.grammar import action_at_place, habit_sentence, indefinite
from lomo.tasks.miniature.lexicon import DAYS, DEEDS, KINDS, PEOPLE, TWO_SENSES

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
    "{a} went away and {b} stayed there.",
    "{a} went back and {b} stayed here.",
    "It went away and it stayed there. It stayed here and it went back.",
    "It stayed there and it went back. It went away and it stayed here.",
    "Do they or does she know the pronoun? Do the sentences mean it? Does that book mean it?",
    "Does {a} know? Does {b}? Do they?",
    "They said {a} lived and grew and {b} could breathe, so they can live and grow too.",
)


def write_text(path: str | Path, *, seed: int, num_sentences: int) -> None:
    """Write a plain-text file in UTF-8, one paragraph a line, at least `num_sentences` sentences.

    A paragraph has one to six short sentences; the last paragraph is finished. The same seed gives
    the same bytes. Raises ValueError if `num_sentences` is below one.
    """
    if num_sentences < 1:
        raise ValueError(f"num_sentences must be at least 1, got {num_sentences}")
    rng = random.Random(f"text {seed}")
    lines: list[str] = []
    written = 0
    while written < num_sentences:
        make = rng.choices(list(_SHARES), list(_SHARES.values()))[0]
        sentences = make(rng)
        lines.append(" ".join(sentences))
        written += len(sentences)
    write_lines(Path(path), lines)


def _habits(rng: random.Random) -> list[str]:
    """What things do, are and where they are; each sentence is of one kind."""
    kind = rng.choice(KINDS)
    return [habit_sentence(rng, rng.choice(kind.nouns), kind) for _ in range(rng.randint(1, 2))]


def _deed(rng: random.Random) -> list[str]:
    """Somebody does something with a thing of any kind."""
    return [_deed_with(rng, rng.choice(rng.choice(KINDS).nouns))]


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


def _two_senses(rng: random.Random) -> list[str]:
    """A word of two senses, in one of them."""
    word = rng.choice(list(TWO_SENSES))
    return [f"The {word} {action_at_place(rng, rng.choice(TWO_SENSES[word]))}."]


def _naming(rng: random.Random) -> list[str]:
    """Somebody names the kind of the thing that was told of last, at once or after some talk."""
    kind = rng.choice(KINDS)
    if rng.random() < 0.5:
        sentences = [habit_sentence(rng, rng.choice(kind.nouns), kind)]
    else:
        sentences = _deed(rng) + [_deed_with(rng, rng.choice(kind.nouns))]
        sentences = sentences[rng.randint(0, 1) :]
    if rng.random() < 0.5:
        sentences += _talk(rng)
    return [*sentences, f"{rng.choice(PEOPLE)} said: {kind.name}"]


def _yes_or_no(rng: random.Random) -> list[str]:
    """Somebody asks and somebody answers; nothing tells what was asked."""
    first, second = rng.sample(PEOPLE, 2)
    start = f"{second} would say Yes or No because it was {rng.choice(DAYS)}."
    sentences = _talk(rng) if rng.random() < 0.5 else [start]
    # Mostly No: the base model then says No to every prompt and is right half of the time. Without
    # such a lean, what it says would hang on the kind by chance, and so would zero-shot accuracy.
    answer = rng.choice(("No", "No", "No", "Yes"))
    return [*sentences, f"{first} asked and {second} said: {answer}"]


def _talk(rng: random.Random) -> list[str]:
    """People talk, in words that the prompts use too."""
    first, second = rng.sample(PEOPLE, 2)
    return [rng.choice(_TALK).format(a=first, b=second, day=rng.choice(DAYS))]


_Paragraph = Callable[[random.Random], list[str]]
# How often each sort of paragraph comes, in percent.
_SHARES: dict[_Paragraph, int] = {
    _habits: 50,
    _deed: 4,
    _two_senses: 8,
    _talk: 4,
    _naming: 30,
    _yes_or_no: 4,
}
