"""Six tasks in SuperGLUE's file layout, the nouns of validation items held out of training."""

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lomo.tasks.miniature import items
from lomo.tasks.miniature.files import write_jsonl
from lomo.tasks.miniature.items import Nouns, Record
from lomo.tasks.miniature.lexicon import KINDS, TWO_SENSES

# This share of the nouns of a kind, and of the words of two senses, is for validation items alone.
_HELD_OUT_SHARE = 1 / 3
# Nothing repeats in a file. So many draws in a row without a new item: there are no more.
_MAX_DRAWS = 10_000

_OF_NOUNS = {"RTE": items.rte, "BoolQ": items.boolq, "WSC": items.wsc}


def write_superglue(folder: str | Path, *, seed: int, num_train: int, num_val: int) -> None:
    """Write `folder`/{RTE,BoolQ,WSC,WiC,MultiRC,COPA}/{train,val}.jsonl in SuperGLUE's fields.

    Each file holds exactly `num_train` or `num_val` items to classify. For MultiRC an item is a
    (paragraph, question, answer) triple: four to a paragraph, and the last paragraph is cut to what
    is missing. Half of the items of a file have each label (one more is true if the number is odd),
    no two items of a file are equal, and within a task no noun of a validation item occurs in a
    training item. The same seed gives the same bytes. Raises ValueError if a number is below one or
    above what the world can tell.
    """
    for name, number in (("num_train", num_train), ("num_val", num_val)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    for split, number in (("train", num_train), ("val", num_val)):
        for task, records in _make_split(split, seed, number).items():
            write_jsonl(Path(folder, task, f"{split}.jsonl"), records)


def _make_split(split: str, seed: int, number: int) -> dict[str, Sequence[Record]]:
    """The records of each task's train or val file."""
    part = ("train", "val").index(split)
    made: dict[str, Sequence[Record]] = {}
    for task, make in _OF_NOUNS.items():
        nouns = _split_nouns(task, seed)[part]
        rng = random.Random(f"{task} {split} {seed}")
        made[task] = _balanced(rng, number, partial(make, nouns=nouns))
    nouns = _split_nouns("COPA", seed)[part]
    rng = random.Random(f"COPA {split} {seed}")
    # Half of COPA's things move, too: who always takes one continuation is right half of the time.
    made["COPA"] = _balanced(rng, number, partial(items.copa, nouns=nouns), also="moves")
    words = _split_words(random.Random(f"WiC words {seed}"), list(TWO_SENSES))[part]
    rng = random.Random(f"WiC {split} {seed}")
    made["WiC"] = _balanced(rng, number, partial(items.wic, words=words))
    nouns = _split_nouns("MultiRC", seed)[part]
    made["MultiRC"] = _multirc(random.Random(f"MultiRC {split} {seed}"), nouns, number)
    return made


def _split_words(rng: random.Random, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for training and the words held out, at random."""
    shuffled = rng.sample(list(words), len(words))
    num_held_out = round(len(words) * _HELD_OUT_SHARE)
    return shuffled[num_held_out:], shuffled[:num_held_out]


def _split_nouns(task: str, seed: int) -> tuple[Nouns, Nouns]:
    """The task's nouns for training and those held out, by the name of their kind."""
    rng = random.Random(f"{task} nouns {seed}")
    splits = {kind.name: _split_words(rng, kind.nouns) for kind in KINDS}
    return (
        {name: train for name, (train, _) in splits.items()},
        {name: held_out for name, (_, held_out) in splits.items()},
    )


def _balanced(
    rng: random.Random, number: int, make: Callable[..., Record], *, also: str | None = None
) -> list[Record]:
    """`number` different items, half of them true, in random order and numbered by idx.

    `also` names something else that holds for half of the items, under either label.
    """
    facts = [{"label": index % 2 == 0} for index in range(number)]
    if also:
        facts = [fact | {also: index // 2 % 2 == 0} for index, fact in enumerate(facts)]
    rng.shuffle(facts)
    seen: set[str] = set()
    records: list[Record] = []
    for fact in facts:
        record = _unseen(rng, partial(make, **fact), seen)
        records.append(record | {"idx": len(records)})
    return records


def _unseen(rng: random.Random, make: Callable[..., Record], seen: set[str]) -> Record:
    for _ in range(_MAX_DRAWS):
        record = make(rng)
        if str(record) not in seen:
            seen.add(str(record))
            return record
    raise ValueError(f"the small world has only about {len(seen)} different items of this sort")


def _multirc(rng: random.Random, nouns: Nouns, number: int) -> list[Record]:
    """Passages with questions with answers, `number` answers in all."""
    passages: list[Record] = []
    seen: set[str] = set()
    num_questions = num_answers = 0
    while num_answers < number:
        text, asked = items.multirc_passage(rng, nouns)
        if text in seen:
            continue
        seen.add(text)
        questions: list[Record] = []
        for question, texts in asked:
            kept = texts[: number - num_answers]
            if not kept:
                break
            answers = [
                {"text": answer, "idx": num_answers + place, "label": 1 - place % 2}
                for place, answer in enumerate(kept)
            ]
            num_answers += len(kept)
            questions.append({"question": question, "answers": answers, "idx": num_questions})
            num_questions += 1
        passage = {"text": text, "questions": questions}
        passages.append({"idx": len(passages), "version": 1.1, "passage": passage})
    return passages
