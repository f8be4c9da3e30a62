"""SuperGLUE's JSONL files, checked line by line and turned into the flat documents of a task.

One reader serves the original files, any folder in their layout, and the generated miniature.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError

if TYPE_CHECKING:
    import datasets

Document = dict[str, Any]


@dataclass(frozen=True)
class TaskFiles:
    """Where a task's lines lie and what each must hold."""

    folder: str
    text_fields: tuple[str, ...]
    # Label as it stands in the file -> index of the candidate in the task's YAML.
    labels: dict[Any, int]
    # The field with which the prompt begins, and which loses its left end where all is too long.
    passage: str | None = None


TASKS = {
    "rte": TaskFiles(
        "RTE", ("premise", "hypothesis"), {"entailment": 0, "not_entailment": 1}, "premise"
    ),
    "boolq": TaskFiles("BoolQ", ("passage", "question"), {False: 0, True: 1}, "passage"),
    "wsc": TaskFiles("WSC", ("text",), {False: 0, True: 1}, "text"),
    "wic": TaskFiles("WiC", ("word", "sentence1", "sentence2"), {False: 0, True: 1}),
    "multirc": TaskFiles("MultiRC", (), {0: 0, 1: 1}, "paragraph"),
    "copa": TaskFiles(
        "COPA", ("premise", "choice1", "choice2", "question"), {0: 0, 1: 1}, "premise"
    ),
}


def read_documents(folder: Path, task: str, split: str) -> list[Document]:
    """All documents of `split` (train or val), each with a `label`: the index of its candidate.

    Raises UserError with file and line number for a broken line, a lacking field or a label out
    of range, and for a missing or empty file.
    """
    path = folder / TASKS[task].folder / f"{split}.jsonl"
    if not path.is_file():
        raise UserError(
            "no such file",
            where=str(path),
            allowed=f"a folder in SuperGLUE's layout: {TASKS[task].folder}/train.jsonl, val.jsonl",
            fix="give the folder that holds RTE, BoolQ, WSC, WiC, MultiRC and COPA",
        )
    documents: list[Document] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{path}:{number}"
                documents.extend(_READERS.get(task, _flat)(_json(line, where), task, where))
    if not documents:
        raise UserError("the file holds no example", where=str(path))
    return documents


def split_documents(
    folder: Path, task: str, *, num_train: int, num_dev: int, num_test: int, seed: int
) -> dict[str, list[Document]]:
    """Documents of `train`, `dev` and `test`, drawn by `seed`.

    `train` and `dev` are disjoint parts of the file's train split; `test` is drawn from val. A
    split smaller than asked for is used whole, as the authors do with COPA and WSC; dev then takes
    no more than a fifth of train. Without dev (`num_dev` 0) all of it is for train.
    """
    pool = read_documents(folder, task, "train")
    if num_dev and len(pool) < 2:
        raise UserError(
            "the file holds one example; train and dev each need one",
            where=str(folder / TASKS[task].folder / "train.jsonl"),
        )
    random.Random(seed).shuffle(pool)
    num_dev = min(num_dev, max(1, len(pool) // 5))
    test = read_documents(folder, task, "val")
    if len(test) > num_test:
        test = random.Random(seed).sample(test, num_test)
    return {"dev": pool[:num_dev], "train": pool[num_dev : num_dev + num_train], "test": test}


def lm_eval_dataset(
    *,
    folder: str,
    task: str,
    split: str = "test",
    seed: int = 0,
    num_train: int = 1000,
    num_dev: int = 200,
    num_test: int = 1000,
    **_: Any,
) -> dict[str, datasets.Dataset]:
    """What lm-eval calls for a task's data (`custom_dataset` of the YAML): its `test` split.

    `split` names ours (dev or test), so that one task definition scores either.
    """
    import datasets

    splits = split_documents(
        Path(folder), task, num_train=num_train, num_dev=num_dev, num_test=num_test, seed=seed
    )
    return {"test": datasets.Dataset.from_list(splits[split])}


def _json(line: bytes, where: str) -> Document:
    fix = "mend the line, or take it out"
    try:
        data = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError("the line is not UTF-8 text", where=where, fix=fix) from error
    except json.JSONDecodeError as error:
        problem = f"the line is not JSON: {error.msg} at character {error.pos + 1}"
        raise UserError(problem, where=where, fix=fix) from error
    return _object(data, "the line", where)


def _object(data: Any, name: str, where: str) -> Document:
    if not isinstance(data, dict):
        raise UserError(f"{name} is not a JSON object", where=where)
    return data


def _text(data: Document, field: str, where: str, *, may_be_empty: bool = False) -> str:
    value = data.get(field)
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        problem = "lacks" if field not in data else "has no text in"
        raise UserError(f"the example {problem} the field {field!r}", where=where, allowed="a text")
    return value


def _label(data: Document, task: str, where: str) -> int:
    labels = TASKS[task].labels
    if "label" not in data:
        raise UserError(
            "the example lacks the field 'label'",
            where=where,
            allowed=", ".join(json.dumps(allowed) for allowed in labels),
            fix="SuperGLUE's test files have no labels: give train and val",
        )
    value = data["label"]
    # In Python True == 1: a JSON true must not pass for COPA's 1, nor 1 for BoolQ's true.
    for allowed, index in labels.items():
        if type(value) is type(allowed) and value == allowed:
            return index
    raise UserError(
        f"label {json.dumps(value)} is out of range",
        where=where,
        allowed=", ".join(json.dumps(allowed) for allowed in labels),
    )


def _flat(data: Document, task: str, where: str) -> Iterator[Document]:
    fields = {field: _text(data, field, where) for field in TASKS[task].text_fields}
    yield {**fields, "label": _label(data, task, where)}


def _copa(data: Document, task: str, where: str) -> Iterator[Document]:
    if data.get("question") not in ("cause", "effect"):
        raise UserError(
            f"question {data.get('question')!r} is unknown", where=where, allowed="cause, effect"
        )
    yield from _flat(data, task, where)


def _wsc(data: Document, task: str, where: str) -> Iterator[Document]:
    target = data.get("target")
    if not isinstance(target, dict):
        raise UserError(
            "the example lacks the field 'target'",
            where=where,
            allowed='{"span1_text": a text, "span2_text": a text}',
        )
    spans = {field: _text(target, field, where) for field in ("span1_text", "span2_text")}
    for document in _flat(data, task, where):
        yield {**document, **spans}


def _multirc(data: Document, task: str, where: str) -> Iterator[Document]:
    passage = data.get("passage")
    if not isinstance(passage, dict) or not isinstance(passage.get("questions"), list):
        raise UserError(
            "the example lacks the field 'passage' with 'questions'",
            where=where,
            allowed='{"text": a text, "questions": [{"question": a text, "answers": [...]}]}',
        )
    paragraph = _text(passage, "text", where)
    for question in passage["questions"]:
        answers = _object(question, "a question", where).get("answers")
        if not isinstance(answers, list):
            raise UserError("a question lacks the field 'answers'", where=where, allowed="a list")
        for answer in answers:
            _object(answer, "an answer", where)
            yield {
                "paragraph": paragraph,
                "question": _text(question, "question", where),
                # The original files hold a few candidate answers without a word.
                "answer": _text(answer, "text", where, may_be_empty=True),
                "label": _label(answer, task, where),
            }


_READERS: dict[str, Callable[[Document, str, str], Iterator[Document]]] = {
    "copa": _copa,
    "wsc": _wsc,
    "multirc": _multirc,
}
