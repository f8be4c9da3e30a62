"""The reader of SuperGLUE's files: counts, labels, splits; on generated lines and on real ones."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.tasks.superglue import (
    TASKS,
    lm_eval_dataset,
    num_shared,
    read_documents,
    split_documents,
)

FIELDS = {
    "rte": {"premise", "hypothesis"},
    "boolq": {"passage", "question"},
    "wsc": {"text", "span1_text", "span2_text"},
    "wic": {"word", "sentence1", "sentence2"},
    "multirc": {"paragraph", "question", "answer"},
    "copa": {"premise", "choice1", "choice2", "question"},
}
# Lines of the test data's files, as its README counts them; of MultiRC, answers.
REAL_COUNTS = {
    "rte": (1000, 177),
    "boolq": (32, 500),
    "wsc": (401, 58),
    "wic": (1000, 400),
    "multirc": (13936, 2991),
    "copa": (300, 60),
}
SIZES = {"num_train": 1000, "num_dev": 200, "num_test": 1000}

every_task = pytest.mark.parametrize("task", TASKS)
every_source = pytest.mark.parametrize("source", ["generated", "real"])


@pytest.fixture
def folder(source: str, request: pytest.FixtureRequest, data_folder: Path) -> Path:
    if source == "generated":
        return data_folder
    return Path(request.getfixturevalue("test_data")) / "superglue"


def keys(documents: list[dict[str, Any]]) -> Counter[str]:
    return Counter(json.dumps(document, sort_keys=True) for document in documents)


@every_source
@every_task
def test_documents_hold_the_fields_of_their_prompt_and_both_labels(folder: Path, task: str) -> None:
    for split in ("train", "val"):
        documents = read_documents(folder, task, split)
        assert all(set(document) == FIELDS[task] | {"label"} for document in documents)
        assert {document["label"] for document in documents} == {0, 1}
        assert all(type(document["label"]) is int for document in documents)


@every_task
def test_every_real_line_is_read(test_data: Path, task: str) -> None:
    read = [len(read_documents(test_data / "superglue", task, s)) for s in ("train", "val")]
    assert tuple(read) == REAL_COUNTS[task]


@every_task
def test_every_generated_line_is_read(data_folder: Path, task: str) -> None:
    for split in ("train", "val"):
        path = data_folder / TASKS[task].folder / f"{split}.jsonl"
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        expected = sum(num_documents(line) for line in lines)
        assert len(read_documents(data_folder, task, split)) == expected


def num_documents(line: dict[str, Any]) -> int:
    if not isinstance(line["passage"] if "passage" in line else None, dict):
        return 1
    return sum(len(question["answers"]) for question in line["passage"]["questions"])


@pytest.mark.parametrize(
    ("task", "line", "label"),
    [
        ("rte", {"premise": "p", "hypothesis": "h", "label": "entailment"}, 0),
        ("rte", {"premise": "p", "hypothesis": "h", "label": "not_entailment"}, 1),
        ("boolq", {"passage": "p", "question": "q", "label": True}, 1),
        ("wic", {"word": "w", "sentence1": "a", "sentence2": "b", "label": False}, 0),
        (
            "copa",
            {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "label": 1},
            1,
        ),
    ],
)
def test_a_label_becomes_the_index_of_its_candidate(
    task: str, line: dict[str, Any], label: int, tmp_path: Path
) -> None:
    path = tmp_path / TASKS[task].folder / "val.jsonl"
    path.parent.mkdir()
    # A blank line and a field that the prompt does not use are no mistakes.
    path.write_text(f"\n{json.dumps({**line, 'idx': 7})}\n\n", encoding="utf-8")
    assert read_documents(tmp_path, task, "val") == [
        {**{name: line[name] for name in FIELDS[task]}, "label": label}
    ]


def test_multirc_becomes_one_document_an_answer(tmp_path: Path) -> None:
    questions = [
        {
            "question": question,
            "answers": [{"text": text, "label": label} for text, label in answers],
        }
        for question, answers in (("who", [("Ann", 1), ("", 0)]), ("where", [("here", 1)]))
    ]
    path = tmp_path / "MultiRC" / "val.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps({"passage": {"text": "Once.", "questions": questions}}))
    assert read_documents(tmp_path, "multirc", "val") == [
        {"paragraph": "Once.", "question": "who", "answer": "Ann", "label": 1},
        {"paragraph": "Once.", "question": "who", "answer": "", "label": 0},
        {"paragraph": "Once.", "question": "where", "answer": "here", "label": 1},
    ]


EXPORTED = {
    "rte": {"premise": "A cat sat.", "hypothesis": "A cat sat down.", "idx": 0},
    "boolq": {"question": "is ice cold", "passage": "Ice is cold.", "idx": 0},
    "wic": {"word": "bank", "sentence1": "a", "sentence2": "b", "start1": 4, "idx": 0},
    "wsc": {"text": "t", "span1_index": 0, "span2_index": 4, "span1_text": "Ann"}
    | {"span2_text": "she", "idx": 0},
    "multirc": {"paragraph": "p", "question": "q", "answer": "", "idx": {"paragraph": 0}},
    "copa": {"premise": "p", "choice1": "a", "choice2": "b", "question": "cause", "idx": 0},
}


@every_task
def test_an_export_of_datasets_is_read_as_the_original_is(
    data_folder: Path, task: str, tmp_path: Path
) -> None:
    """Written by hand from the documents of the original files, as `datasets` does it."""
    originals = {split: read_documents(data_folder, task, split) for split in ("train", "val")}
    for split, name in (("train", "train"), ("val", "validation")):
        documents = originals[split]
        path = tmp_path / TASKS[task].folder / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        lines = [json.dumps(EXPORTED[task] | document) + "\n" for document in documents]
        path.write_text("".join(lines), encoding="utf-8")
    assert {split: read_documents(tmp_path, task, split) for split in originals} == originals
    sizes = {"num_train": 20, "num_dev": 5, "num_test": 10, "seed": 1}
    assert split_documents(tmp_path, task, **sizes) == split_documents(data_folder, task, **sizes)


@pytest.mark.parametrize(
    ("task", "names"),
    [
        ("rte", ("entailment", "not_entailment")),
        ("boolq", (False, True)),
        ("wic", (False, True)),
        ("wsc", (False, True)),
        ("multirc", (0, 1)),
        ("copa", (0, 1)),
    ],
)
def test_a_number_of_the_export_is_the_class_that_datasets_numbers_so(
    task: str, names: tuple[Any, Any], tmp_path: Path
) -> None:
    """`names`: the ClassLabel of each task in `super_glue`, in its order."""
    path = tmp_path / TASKS[task].folder / "validation.jsonl"
    path.parent.mkdir()
    for label, name in enumerate(names):
        path.write_text(json.dumps(EXPORTED[task] | {"label": label}))
        (document,) = read_documents(tmp_path, task, "val")
        assert document["label"] == TASKS[task].labels[name]


def test_marks_and_line_ends_of_other_systems_are_no_mistakes(tmp_path: Path) -> None:
    line = {"premise": "\u00e9t\u00e9 \u2028 \u0000", "hypothesis": "h", "label": "entailment"}
    text = json.dumps(line, ensure_ascii=False)
    path = tmp_path / "RTE" / "val.jsonl"
    path.parent.mkdir()
    mark = "\N{ZERO WIDTH NO-BREAK SPACE}"
    path.write_bytes(f"{mark}{text}\r\n{mark}{text}\r\n\r\n{text}".encode())
    expected = {**line, "label": 0}
    assert read_documents(tmp_path, "rte", "val") == [expected] * 3


def test_a_line_of_any_length_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "RTE" / "val.jsonl"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(b'{"premise": "' + b"x" * 100)
        file.truncate(10**8)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"{path}:1: the line is too long"):
        read_documents(tmp_path, "rte", "val")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@every_source
@every_task
def test_dev_and_train_are_disjoint_parts_of_train_and_test_is_of_val(
    folder: Path, task: str
) -> None:
    splits = split_documents(folder, task, **SIZES, seed=0)
    pool = keys(read_documents(folder, task, "train"))
    assert keys(splits["train"]) + keys(splits["dev"]) <= pool, "each line is used once at most"
    assert keys(splits["test"]) <= keys(read_documents(folder, task, "val"))
    sizes = {name: len(documents) for name, documents in splits.items()}
    num_lines = pool.total()
    if task == "multirc":  # whole paragraphs are taken
        assert 0 < sizes["dev"] <= min(200, num_lines // 5)
        parts = [{d["paragraph"] for d in splits[name]} for name in ("train", "dev")]
        assert parts[0].isdisjoint(parts[1])
    else:
        assert sizes["dev"] == min(200, num_lines // 5)
        assert sizes["train"] == min(1000, num_lines - sizes["dev"])


def test_paragraphs_are_not_divided_between_dev_and_train_and_none_is_wasted(
    test_data: Path,
) -> None:
    sizes = {"num_train": 1000, "num_dev": 200, "num_test": 1}
    splits = split_documents(test_data / "superglue", "multirc", **sizes, seed=3)
    assert (len(splits["dev"]), len(splits["train"])) == (200, 1000)
    dev, train = ({d["paragraph"] for d in splits[name]} for name in ("dev", "train"))
    assert dev.isdisjoint(train)
    assert len(dev) > 30 and len(train) > 150, "drawn from all, not from a few"
    whole = split_documents(test_data / "superglue", "multirc", **{**sizes, "num_dev": 0}, seed=3)
    assert not whole["dev"] and len(whole["train"]) == 1000


def test_the_seed_alone_draws_the_examples(data_folder: Path) -> None:
    few = {"num_train": 20, "num_dev": 5, "num_test": 10}
    first, again, other = (split_documents(data_folder, "rte", **few, seed=s) for s in (1, 1, 2))
    assert first == again
    for split, size in (("train", 20), ("dev", 5), ("test", 10)):
        assert len(first[split]) == size
        assert keys(first[split]) != keys(other[split])


def test_a_small_set_is_used_whole(data_folder: Path) -> None:
    splits = split_documents(data_folder, "copa", **SIZES, seed=0)
    train, val = (read_documents(data_folder, "copa", split) for split in ("train", "val"))
    assert splits["test"] == val
    assert keys(splits["train"]) + keys(splits["dev"]) == keys(train)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_lm_eval_is_given_the_documents_that_the_training_loop_knows(
    data_folder: Path, split: str
) -> None:
    sizes = {"num_train": 20, "num_dev": 5, "num_test": 10}
    given = lm_eval_dataset(folder=str(data_folder), task="wsc", split=split, seed=3, **sizes)
    expected = split_documents(data_folder, "wsc", seed=3, **sizes)[split]
    assert list(given) == ["test"]
    assert given["test"].to_list() == expected


@pytest.mark.parametrize(("number", "asked"), [(9, 4), (4, 9), (9, 9)])
def test_without_dev_examples_are_drawn_as_the_authors_draw_them(
    tmp_path: Path, number: int, asked: int
) -> None:
    """Theirs: seed 0 of the module's own generator, then positions out of all, in that order."""
    made = {}
    for split, size in (("train", number), ("val", number + 3)):
        made[split] = [
            {"premise": f"{split} {i}", "hypothesis": "b", "label": "entailment"}
            for i in range(size)
        ]
        lines = "".join(json.dumps(line) + "\n" for line in made[split])
        (tmp_path / "RTE").mkdir(exist_ok=True)
        (tmp_path / "RTE" / f"{split}.jsonl").write_text(lines)
    splits = split_documents(tmp_path, "rte", num_train=asked, num_dev=0, num_test=asked, seed=0)
    for ours, split in (("train", "train"), ("test", "val")):
        random.seed(0)
        size = len(made[split])
        drawn = random.sample(list(range(size)), asked) if size > asked else range(size)
        assert [d["premise"] for d in splits[ours]] == [made[split][i]["premise"] for i in drawn]


def test_passages_of_dev_that_are_tested_too_are_counted() -> None:
    def documents(task: str, *passages: str) -> list[dict[str, Any]]:
        field = {"multirc": "paragraph", "boolq": "passage", "wic": "word"}[task]
        return [{field: passage, "label": i % 2, "n": 0} for i, passage in enumerate(passages)]

    for task in ("multirc", "boolq", "wic"):
        dev, test = documents(task, "a", "b", "a"), documents(task, "c", "a", "c")
        assert num_shared(dev, test, task) == 2
        assert num_shared(dev, documents(task, "c"), task) == 0
    # WiC has no passage: the whole of an example is compared.
    assert num_shared([{"word": "a", "n": 1}], [{"word": "a", "n": 2}], "wic") == 0
