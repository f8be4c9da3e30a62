"""SuperGLUE's JSONL files, checked line by line and turned into the flat documents of a task.

One reader serves the original files, any folder in their layout, the generated miniature, and the
files that the library `datasets` exports.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lomo.errors import UserError
from lomo.tasks.entry import TaskFiles, outside
from lomo.tasks.lines import (
    EXPORTED,
    Document,
    broken_link,
    exported_layout,
    own_layout,
    read_objects,
)

if TYPE_CHECKING:
    import datasets


TASKS = {
    "rte": TaskFiles(
        "RTE", ("premise", "hypothesis"), {"entailment": 0, "not_entailment": 1}, "premise"
    ),
    "boolq": TaskFiles("BoolQ", ("passage", "question"), {False: 0, True: 1}, "passage"),
    "wsc": TaskFiles("WSC", ("text",), {False: 0, True: 1}, "text"),
    "wic": TaskFiles("WiC", ("word", "sentence1", "sentence2"), {False: 0, True: 1}),
    "multirc": TaskFiles("MultiRC", (), {0: 0, 1: 1}, "paragraph", together="paragraph"),
    "copa": TaskFiles(
        "COPA", ("premise", "choice1", "choice2", "question"), {0: 0, 1: 1}, "premise"
    ),
}
# Those whose files the pipeline can fetch, and make in miniature; another's lie in a folder.
GIVEN = ("rte", "boolq", "wsc", "wic", "multirc", "copa")


def files_of(task: str) -> TaskFiles:
    """The entry of a task, of this repository or of another package. Raises UserError."""
    return TASKS[task] if task in TASKS else outside(task).files


def find_file(folder: Path, task: str, split: str) -> tuple[Path, bool]:
    """The file of `split` (train or val), and whether it is an export of `datasets`.

    It is where `validation.jsonl` stands for `val.jsonl`: no name or label of SuperGLUE's own
    files could be taken for the other. Raises UserError where both are there.
    """
    own = folder / files_of(task).folder
    exported = task in EXPORTED and (own / "validation.jsonl").is_file()
    if exported and (own / "val.jsonl").exists():
        raise UserError(
            "val.jsonl and validation.jsonl are both there",
            where=str(own),
            allowed="val.jsonl, as SuperGLUE has it, or validation.jsonl, as `datasets` exports it",
            fix="take out one of them, and with it the train.jsonl of the other layout",
        )
    return own / f"{'validation' if exported and split == 'val' else split}.jsonl", exported


def read_documents(folder: Path, task: str, split: str) -> list[Document]:
    """All documents of `split` (train or val), each with a `label`: the index of its candidate.

    Raises UserError with file and line number for a broken line, a lacking field or a label out
    of range, and for a missing or empty file.
    """
    path, exported = find_file(folder, task, split)
    files = files_of(task)
    if not path.is_file():
        link = broken_link(path)
        raise UserError(
            f"a broken link to {link}" if link else "no such file",
            where=str(path),
            allowed=f"a folder in SuperGLUE's layout: {files.folder}/train.jsonl, val.jsonl",
            fix=f"give the folder that holds {files.folder}, among others",
        )
    layout = (
        exported_layout(task, files.text_fields)
        if exported
        else own_layout(task, files.text_fields, files.labels)
    )
    documents: list[Document] = []
    for where, data in read_objects(path):
        documents.extend(layout.read(data, layout, where))
    if not documents:
        raise UserError("the file holds no example", where=str(path))
    return documents


def num_seen(training: Iterable[Document], tested: Iterable[Document]) -> int:
    """How many of the `tested` documents stand among those of `training`, whatever their label."""
    known = set(map(_content, training))
    return sum(_content(document) in known for document in tested)


def num_shared(selecting: Iterable[Document], tested: Iterable[Document], task: str) -> int:
    """How many of the `selecting` documents have a passage that `tested` ones have, too."""
    files = files_of(task)
    field = files.together or files.passage

    def passage(document: Document) -> Any:
        return document[field] if field else _content(document)

    known = set(map(passage, tested))
    return sum(passage(document) in known for document in selecting)


def check_splits(folder: Path, task: str, *, selects: bool) -> None:
    """Reads both files. Raises UserError for a bad line, where all of val stands in train, and
    where a dev split is asked for (`selects`) and would leave nothing to it or to train."""
    training, tested = (read_documents(folder, task, split) for split in ("train", "val"))
    if selects:
        _num_groups(training, folder, task)
    if num_seen(training, tested) == len(tested):
        raise UserError(
            "every example stands in train.jsonl too: what was learnt by heart would be scored",
            where=str(find_file(folder, task, "val")[0]),
            allowed="examples that are not trained on",
            fix="give SuperGLUE's own val.jsonl, or take its examples out of train.jsonl",
        )


def _content(document: Document) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in document.items() if name != "label"))


def split_documents(
    folder: Path, task: str, *, num_train: int, num_dev: int, num_test: int, seed: int
) -> dict[str, list[Document]]:
    """Documents of `train`, `dev` and `test`, drawn by `seed`.

    `test`, and without dev (`num_dev` 0) `train` too, are drawn as the authors' code draws them.

    `train` and `dev` are disjoint parts of the file's train split; `test` is drawn from val. A
    split smaller than asked for is used whole, as the authors do with COPA and WSC; dev then takes
    no more than a fifth of train. MultiRC's
    paragraphs are not divided: each is for train or for dev, and a few may be left over.
    """
    pool = read_documents(folder, task, "train")
    test = _drawn(read_documents(folder, task, "val"), num_test, seed)
    if not num_dev:
        return {"dev": [], "train": _drawn(pool, num_train, seed), "test": test}
    field, num_groups = files_of(task).together, _num_groups(pool, folder, task)
    random.Random(seed).shuffle(pool)
    num_dev = min(num_dev, max(1, len(pool) // 5))
    dev, rest = pool[:num_dev], pool[num_dev:]
    if field:
        share = num_dev / (num_dev + min(num_train, len(rest)))
        dev, rest = _apart(pool, field, min(num_groups - 1, max(1, round(share * num_groups))))
    return {"dev": dev[:num_dev], "train": rest[:num_train], "test": test}


def _drawn(documents: list[Document], number: int, seed: int) -> list[Document]:
    """At most `number` of them: `random.seed(seed)`, then `random.sample`."""
    if len(documents) <= number:
        return documents
    return random.Random(seed).sample(documents, number)


def _num_groups(pool: list[Document], folder: Path, task: str) -> int:
    """How many parts `pool` can be divided into. Raises UserError for one."""
    field = files_of(task).together
    number = len({document[field] for document in pool}) if field else len(pool)
    if number < 2:
        raise UserError(
            f"the file holds one {field or 'example'}; train and dev each need one",
            where=str(find_file(folder, task, "train")[0]),
            fix="add examples; or protocol: paper, which selects on the reported ones",
        )
    return number


def _apart(
    pool: list[Document], field: str, num_groups: int
) -> tuple[list[Document], list[Document]]:
    """The documents of the first `num_groups` values of `field`, and all others, in their order."""
    first = set(list(dict.fromkeys(document[field] for document in pool))[:num_groups])
    parts: tuple[list[Document], list[Document]] = ([], [])
    for document in pool:
        parts[document[field] not in first].append(document)
    return parts


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
