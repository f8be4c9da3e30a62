"""One item of each task, in SuperGLUE's fields: the label follows from the kinds of the words.

A task asks for one concept (what is alive, what moves, what belongs in a house), in changing words.
A model that knows the kinds from its pretraining text has to learn which of them the task means,
and can then tell for words that no training item holds. There is nothing to look up or to compare:
a model of a million parameters does not learn that in seconds.

Each function takes the nouns it may use, by the name of their kind: the caller can hold some out.
"""

import random
from collections.abc import Mapping, Sequence

from lomo.tasks.miniature.grammar import action_at_place, indefinite
from lomo.tasks.miniature.lexicon import (
    ALIVE,
    DAYS,
    DEEDS,
    HOUSEHOLD,
    KINDS,
    MOVING,
    PEOPLE,
    TWO_SENSES,
    Kind,
)

Nouns = Mapping[str, Sequence[str]]
Record = dict[str, object]

_HOUSE_QUESTIONS = (
    "What is in a house?",
    "Which is a house thing?",
    "What do they have in a house?",
)
# What a thing that moves did, and what any other did.
_WENT = ("went away", "went back")
_STAYED = ("stayed there", "stayed here")


def rte(rng: random.Random, *, nouns: Nouns, label: bool) -> Record:
    """Somebody did something with a thing: does it follow that the thing was one that moves?"""
    person, deed, day = rng.choice(PEOPLE), rng.choice(DEEDS), rng.choice(DAYS)
    noun = _noun(rng, nouns, _kind(rng, MOVING, label))
    premise = rng.choice(
        (f"On {day} {person} {deed} the {noun}.", f"{person} {deed} {indefinite(noun)}.")
    )
    moving = rng.choice(("a moving thing", "something that moves"))
    return {
        "premise": premise,
        "hypothesis": f"{person} {deed} {moving}.",
        "label": "entailment" if label else "not_entailment",
    }


def boolq(rng: random.Random, *, nouns: Nouns, label: bool) -> Record:
    """A passage that names a thing, and the question whether such a thing is alive."""
    thing = indefinite(_noun(rng, nouns, _kind(rng, ALIVE, label)))
    question = rng.choice(
        (f"is {thing} alive", f"can {thing} grow", f"can {thing} live", f"does {thing} breathe")
    )
    passage = f"{rng.choice(PEOPLE)} {rng.choice(DEEDS)} {thing} on {rng.choice(DAYS)}."
    return {"question": question, "passage": passage, "label": label}


def wsc(rng: random.Random, *, nouns: Nouns, label: bool) -> Record:
    """Two things and a pronoun that means the one that is alive: does it mean this one?"""
    asked = _noun(rng, nouns, _kind(rng, ALIVE, label))
    rival = _noun(rng, nouns, _kind(rng, ALIVE, not label))
    first, second = rng.sample((asked, rival), 2)
    told = rng.choice(("it grew", "it was alive", "it lived"))
    person, deed = rng.choice(PEOPLE), rng.choice(DEEDS)
    text = f"{person} {deed} the {first} and the {second} when {told}."
    words = text.split(" ")
    return {
        "text": text,
        "target": {
            "span1_text": f"the {asked}",
            "span1_index": words.index(asked) - 1,
            "span2_text": "it",
            "span2_index": words.index("it"),
        },
        "label": label,
    }


def wic(rng: random.Random, *, words: Sequence[str], label: bool) -> Record:
    """A word of two senses, first in the one that is alive: is it in that one again?"""
    word = rng.choice(words)
    alive, other = TWO_SENSES[word]
    contexts = [action_at_place(rng, alive)]
    while len(contexts) < 2:
        context = action_at_place(rng, alive if label else other)
        if context not in contexts:
            contexts.append(context)
    start = len("The ")
    end = start + len(word)
    return {
        "word": word,
        "sentence1": f"The {word} {contexts[0]}.",
        "sentence2": f"The {word} {contexts[1]}.",
        "start1": start,
        "start2": start,
        "end1": end,
        "end2": end,
        "version": 1.1,
        "label": label,
    }


def copa(rng: random.Random, *, nouns: Nouns, label: bool, moves: bool) -> Record:
    """Somebody met a thing, and two continuations: one suits what moves, one what does not.

    A true label says that choice2 is right; the thing is one that moves, or not.
    """
    noun = _noun(rng, nouns, _kind(rng, MOVING, moves))
    choices = [f"It {rng.choice(_WENT)}.", f"It {rng.choice(_STAYED)}."]
    if label == moves:
        choices.reverse()
    premise = f"{rng.choice(PEOPLE)} {rng.choice(DEEDS)} the {noun}"
    return {
        "premise": f"{premise} on {rng.choice(DAYS)}." if rng.random() < 0.5 else f"{premise}.",
        "choice1": choices[0],
        "choice2": choices[1],
        "question": rng.choice(("cause", "effect")),
        "label": int(label),
    }


def multirc_passage(rng: random.Random, nouns: Nouns) -> tuple[str, list[tuple[str, list[str]]]]:
    """A passage of two things, one of which belongs in a house, and two questions which one does.

    Gives the passage and, for each question, the right answer and the wrong one.
    """
    answers = [f"the {_noun(rng, nouns, _kind(rng, HOUSEHOLD, label))}" for label in (True, False)]
    first, second = rng.sample(answers, 2)
    passage = (
        f"{rng.choice(PEOPLE)} {rng.choice(DEEDS)} {first} and {second} on {rng.choice(DAYS)}."
    )
    questions = rng.sample(_HOUSE_QUESTIONS, 2)
    return passage, [(question, answers) for question in questions]


def _noun(rng: random.Random, nouns: Nouns, kind: Kind) -> str:
    return rng.choice(nouns[kind.name])


def _kind(rng: random.Random, concept: Sequence[Kind], label: bool) -> Kind:
    return rng.choice(_kinds(concept, label))


def _kinds(concept: Sequence[Kind], label: bool) -> list[Kind]:
    """The kinds that the concept holds for, or those that it does not hold for."""
    return [kind for kind in KINDS if (kind in concept) == label]
