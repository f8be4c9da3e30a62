"""The generated miniature: layout, balance, what is held out, and the same bytes every time."""

import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lomo.tasks.miniature import write_superglue, write_text
from lomo.tasks.miniature.lexicon import (
    ALIVE,
    HOUSEHOLD,
    KINDS,
    MOVING,
    PEOPLE,
    TWO_SENSES,
    Kind,
)

NUM_TRAIN, NUM_VAL = 121, 61
SPLITS = {"train": NUM_TRAIN, "val": NUM_VAL}
FIELDS = {
    "RTE": {"premise", "hypothesis", "label", "idx"},
    "BoolQ": {"question", "passage", "label", "idx"},
    "WSC": {"text", "target", "label", "idx"},
    "WiC": {
        *("word", "sentence1", "sentence2", "start1", "end1", "start2", "end2"),
        *("version", "label", "idx"),
    },
    "MultiRC": {"passage", "version", "idx"},
    "COPA": {"premise", "choice1", "choice2", "question", "label", "idx"},
}
TASKS_AND_SPLITS = [(task, split) for task in FIELDS for split in SPLITS]
# What every prompt has and natural text has not; its last word alone the text shares ("Answer:").
PROMPT_FRAGMENTS = (
    *("Question:", "pronuon", "Does this mean that", "I found this answer"),
    *("Is that correct? Yes or No?", "Does the word", "is true? Yes or No?", ". so", ". because"),
)

Record = dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("miniature")
    write_superglue(path, seed=3, num_train=NUM_TRAIN, num_val=NUM_VAL)
    write_text(path / "text.txt", seed=3, num_sentences=5000)
    return path


def read(folder: Path, task: str, split: str) -> list[Record]:
    lines = (folder / task / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answers(records: list[Record]) -> list[Record]:
    """All answers of MultiRC's passages, in order."""
    questions = [question for record in records for question in record["passage"]["questions"]]
    return [answer for question in questions for answer in question["answers"]]


def labels(task: str, records: list[Record]) -> list[bool]:
    if task == "MultiRC":
        return [answer["label"] == 1 for answer in answers(records)]
    if task == "RTE":
        assert {record["label"] for record in records} <= {"entailment", "not_entailment"}
        return [record["label"] == "entailment" for record in records]
    return [bool(record["label"]) for record in records]


def words_of(records: list[Record]) -> set[str]:
    return set(re.findall(r"[A-Za-z]+", json.dumps(records)))


@pytest.mark.parametrize(("task", "split"), TASKS_AND_SPLITS)
def test_fields_are_superglues(folder: Path, task: str, split: str) -> None:
    records = read(folder, task, split)
    assert [record["idx"] for record in records] == list(range(len(records)))
    for record in records:
        assert set(record) == FIELDS[task]


@pytest.mark.parametrize(("task", "split"), TASKS_AND_SPLITS)
def test_items_are_as_many_as_asked_and_balanced(folder: Path, task: str, split: str) -> None:
    found = labels(task, read(folder, task, split))
    assert len(found) == SPLITS[split]
    assert abs(2 * sum(found) - len(found)) <= 1


@pytest.mark.parametrize("task", [task for task in FIELDS if task != "MultiRC"])
def test_no_item_repeats_in_a_file(folder: Path, task: str) -> None:
    for split in SPLITS:
        contents = [
            json.dumps({key: value for key, value in record.items() if key != "idx"})
            for record in read(folder, task, split)
        ]
        assert len(set(contents)) == len(contents)


def test_label_types(folder: Path) -> None:
    for task in ("BoolQ", "WSC", "WiC"):
        assert {type(record["label"]) for record in read(folder, task, "val")} == {bool}
    assert {record["label"] for record in read(folder, "COPA", "val")} == {0, 1}
    assert {record["question"] for record in read(folder, "COPA", "val")} == {"cause", "effect"}
    assert {type(answer["label"]) for answer in answers(read(folder, "MultiRC", "val"))} == {int}


def test_multirc_is_numbered_through(folder: Path) -> None:
    records = read(folder, "MultiRC", "val")
    questions = [question for record in records for question in record["passage"]["questions"]]
    assert [question["idx"] for question in questions] == list(range(len(questions)))
    assert [answer["idx"] for answer in answers(records)] == list(range(NUM_VAL))


@pytest.mark.parametrize("split", SPLITS)
def test_spans_are_where_the_indices_say(folder: Path, split: str) -> None:
    for record in read(folder, "WSC", split):
        words = record["text"].rstrip(".").split(" ")
        for span in ("span1", "span2"):
            text, start = record["target"][f"{span}_text"], record["target"][f"{span}_index"]
            assert words[start : start + len(text.split(" "))] == text.split(" ")
    for record in read(folder, "WiC", split):
        for place in "12":
            start, end = record[f"start{place}"], record[f"end{place}"]
            assert record[f"sentence{place}"][start:end] == record["word"]


@pytest.mark.parametrize("task", FIELDS)
def test_nouns_of_val_are_held_out_of_train(folder: Path, task: str) -> None:
    nouns = set(TWO_SENSES) if task == "WiC" else {noun for kind in KINDS for noun in kind.nouns}
    train, val = (words_of(read(folder, task, split)) & nouns for split in SPLITS)
    assert train and val
    assert not train & val


def kind_of(sentence: str) -> Kind:
    """The kind of the one noun, or of the place if there is no noun, that the sentence holds."""
    words = set(re.findall(r"[A-Za-z]+", sentence))
    of_nouns = [kind for kind in KINDS if words & set(kind.nouns)]
    (found,) = of_nouns or [kind for kind in KINDS if any(p in sentence for p in kind.places)]
    return found


@pytest.mark.parametrize("split", SPLITS)
def test_labels_follow_from_the_kinds(folder: Path, split: str) -> None:
    for record in read(folder, "RTE", split):
        assert (record["label"] == "entailment") == (kind_of(record["premise"]) in MOVING)
    for record in read(folder, "BoolQ", split):
        assert record["label"] == (kind_of(record["passage"]) in ALIVE)
        assert kind_of(record["passage"]) == kind_of(record["question"])
    for record in read(folder, "WSC", split):
        assert record["label"] == (kind_of(record["target"]["span1_text"]) in ALIVE)
    for record in read(folder, "WiC", split):
        first, second = kind_of(record["sentence1"]), kind_of(record["sentence2"])
        assert {first, second} <= set(TWO_SENSES[record["word"]])
        assert record["label"] == (first == second)
    for answer in answers(read(folder, "MultiRC", split)):
        assert (answer["label"] == 1) == (kind_of(answer["text"]) in HOUSEHOLD)
    for record in read(folder, "COPA", split):
        went = [" went " in record[choice] for choice in ("choice1", "choice2")]
        assert sorted(went) == [False, True]
        assert went[record["label"]] == (kind_of(record["premise"]) in MOVING)


@pytest.mark.parametrize("split", SPLITS)
def test_half_of_copas_things_move_under_either_label(folder: Path, split: str) -> None:
    moving = Counter(
        (record["label"], kind_of(record["premise"]) in MOVING)
        for record in read(folder, "COPA", split)
    )
    assert len(moving) == 4
    assert max(moving.values()) - min(moving.values()) <= 1


def test_a_word_is_of_one_kind() -> None:
    nouns = [noun for kind in KINDS for noun in kind.nouns] + list(TWO_SENSES)
    assert len(set(nouns)) == len(nouns)
    for of_kind in (
        [word for kind in KINDS for pair in kind.actions for word in pair],
        [place for kind in KINDS for place in kind.places],
        [kind.name for kind in KINDS],
    ):
        assert len(set(of_kind)) == len(of_kind)


def test_text_holds_no_prompt_and_every_noun(folder: Path) -> None:
    text = (folder / "text.txt").read_text(encoding="utf-8")
    for fragment in PROMPT_FRAGMENTS:
        assert fragment not in text
    words = set(re.findall(r"[A-Za-z]+", text))
    assert {noun for kind in KINDS for noun in kind.nouns} <= words
    assert {*TWO_SENSES, *PEOPLE, "Yes", "No"} <= words


def test_text_says_yes_and_no_regardless_of_any_thing(folder: Path) -> None:
    nouns = {noun for kind in KINDS for noun in kind.nouns} | set(TWO_SENSES)
    for line in (folder / "text.txt").read_text(encoding="utf-8").splitlines():
        words = set(re.findall(r"[A-Za-z]+", line))
        assert not (words & {"Yes", "No"} and words & nouns)


def test_answers_name_the_kind_or_say_yes_and_no_alike_after_every_kind(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt", seed=3, num_sentences=12_000)
    lines = (tmp_path / "text.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) % 2 == 0
    said: dict[str, Counter[str]] = {kind.name: Counter() for kind in KINDS}
    named = 0
    for told, line in zip(lines[::2], lines[1::2], strict=True):
        assert not told.startswith("Answer:")
        if line.startswith("Answer: "):
            answer = line.removeprefix("Answer: ")
            kind = last_kind(told)
            if answer in ("Yes", "No"):
                said[kind.name][answer] += 1
            else:
                assert answer == kind.name
                named += 1
    unnamed = sum(counts.total() for counts in said.values())
    assert 0.7 < named / (named + unnamed) < 0.8
    # One of eight is Yes, whatever the kind: within four standard errors of each.
    for counts in said.values():
        error = math.sqrt(1 / 8 * 7 / 8 / counts.total())
        assert abs(counts["Yes"] / counts.total() - 1 / 8) < 4 * error


def last_kind(told: str) -> Kind:
    """The kind of what is told of last: of its noun, its kind's name, or what it did and where."""
    found = [
        (match.start(), kind)
        for kind in KINDS
        for word in (*kind.nouns, kind.name, kind.plural, *kind.places, *sum(kind.actions, ()))
        for match in re.finditer(rf"\b{word}\b", told, flags=re.IGNORECASE)
    ]
    return max(found, key=lambda place_and_kind: place_and_kind[0])[1]


@pytest.mark.parametrize("num_sentences", [1, 2, 500])
def test_text_is_as_long_as_asked(tmp_path: Path, num_sentences: int) -> None:
    write_text(tmp_path / "text.txt", seed=0, num_sentences=num_sentences)
    text = (tmp_path / "text.txt").read_text(encoding="utf-8")
    assert all(text.splitlines())
    # What somebody says after a colon ends a line without a full stop.
    num_found = len(re.findall(r"[.?](?=\s)|\w(?=\n)", text))
    assert num_found >= num_sentences


def test_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; from lomo.tasks.miniature import write_superglue, write_text\n"
        "write_superglue(sys.argv[1], seed=5, num_train=40, num_val=20)\n"
        "write_text(sys.argv[1] + '/text.txt', seed=5, num_sentences=300)"
    )
    made = []
    for hash_seed in ("1", "2"):
        path = tmp_path / hash_seed
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code, str(path)]
        subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[2])
        files = sorted(file for file in path.rglob("*") if file.is_file())
        made.append({str(file.relative_to(path)): file.read_bytes() for file in files})
    assert made[0] == made[1]
    assert len(made[0]) == 2 * len(FIELDS) + 1


def test_another_seed_gives_another_text(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_text(tmp_path / f"{seed}.txt", seed=seed, num_sentences=50)
    assert (tmp_path / "0.txt").read_bytes() != (tmp_path / "1.txt").read_bytes()


def test_numbers_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="num_sentences"):
        write_text(tmp_path / "text.txt", seed=0, num_sentences=0)
    with pytest.raises(ValueError, match="num_val"):
        write_superglue(tmp_path, seed=0, num_train=5, num_val=0)
    assert not list(tmp_path.iterdir())
