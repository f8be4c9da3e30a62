"""The suites' files as their authors give them, checked line by line, and the documents in them.

This is the one place that knows the layouts. The documents have the fields that lm-eval's tasks
ask for: those of the hub's copies.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lomo.errors import UserError, nearest
from lomo.suites.humaneval import read_problems
from lomo.suites.known import SUBJECTS, Found, Suite
from lomo.tasks.lines import broken_link, read_objects

Document = dict[str, Any]
# Split -> documents, under the names that lm-eval's tasks use.
Splits = dict[str, list[Document]]

# A text of a megabyte is no question: a quotation mark that is not closed takes the rest of a file.
_MOST_CHARACTERS = 10**6
LETTERS = "ABCD"


class Layout(NamedTuple):
    """How one suite lies in the data folder.

    wanted: in words, for messages. subjects: of a suite's folder, in their order; [""] where it
    has none. files: of a folder and a subject. read: the documents of a subject.
    """

    wanted: str
    subjects: Callable[[Path], list[str]]
    files: Callable[[Path, str], list[Path]]
    read: Callable[[Path, str], Splits]


def subjects_of(found: Found, data: Path) -> list[str]:
    """The subjects that are there, or the one that is asked for; [""] where a suite has none.

    Raises UserError where the data folder lacks the suite, and for a subject that it does not have.
    """
    suite = found.suite
    layout, folder = LAYOUTS[suite.layout], data / suite.layout
    if not folder.is_dir():
        link = broken_link(folder)
        raise UserError(
            f"a broken link to {link}" if link else f"the folder has no {suite.title}",
            where=str(folder),
            allowed=layout.wanted,
            fix="add the suite's own files, or take it out of `tasks`",
        )
    there = layout.subjects(folder)
    if not there:
        raise _lacks(suite, folder)
    known = SUBJECTS.get(suite.layout)
    odd = sorted(set(there) - known) if known else []
    if odd:
        close = nearest(odd[0], known or ())
        raise UserError(
            f"{odd[0]} is no subject of {suite.title}",
            where=str(folder),
            allowed=f"the {len(known or ())} names of lm-eval",
            fix=f"rename its files to {close}" if close else "take its files out of the folder",
        )
    if found.subject is None:
        return there
    if found.subject not in there:
        raise _lacks(suite, folder, found.subject)
    return [found.subject]


def files_of(found: Found, data: Path) -> list[Path]:
    """The files that a suite is read from. Raises UserError as `subjects_of`."""
    layout = LAYOUTS[found.suite.layout]
    return [
        file
        for subject in subjects_of(found, data)
        for file in layout.files(data / found.suite.layout, subject)
    ]


def documents(suite: Suite, data: Path, subject: str) -> Splits:
    """The documents of a subject. Raises UserError with file and line for what is broken."""
    layout, folder = LAYOUTS[suite.layout], data / suite.layout
    for file in layout.files(folder, subject):
        if not file.is_file() or file.stat().st_size == 0:
            raise UserError(
                "is empty" if file.is_file() else "no such file",
                where=str(file),
                allowed=layout.wanted,
                fix="add it, or take the suite out of `tasks`",
            )
    splits = layout.read(folder, subject)
    for split, found in splits.items():
        if not found:
            raise UserError(f"holds no document of {split}", where=str(folder / subject))
    return splits


def _lacks(suite: Suite, folder: Path, subject: str | None = None) -> UserError:
    what = f"has no files of {subject}" if subject else f"has no file of {suite.title}"
    return UserError(
        what,
        where=str(folder),
        allowed=LAYOUTS[suite.layout].wanted,
        fix="give the folder that holds the suites' folders",
    )


def _named(folder: Path, ending: str) -> list[str]:
    """What the files of a folder with this ending are called without it, by their names."""
    found = sorted(path.name for path in folder.glob(f"*{ending}")) if folder.is_dir() else []
    return [name.removesuffix(ending) for name in found]


def _csv_files(folder: Path, subject: str) -> list[Path]:
    return [folder / split / f"{subject}_{split}.csv" for split in ("dev", "test")]


def _read_csv(folder: Path, subject: str) -> Splits:
    dev, test = _csv_files(folder, subject)
    return {"dev": list(_questions(dev, subject)), "test": list(_questions(test, subject))}


def _questions(path: Path, subject: str) -> Iterator[Document]:
    """Rows of six columns: question, four choices, the letter of the right one."""
    fix = "mend the line, or take it out; quotation marks in a text are doubled"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            while True:
                where = f"{path}:{rows.line_num + 1}"
                row = next(rows, None)
                if row is None:
                    return
                if not row:
                    continue
                wrong = f"{len(row)} columns" if len(row) != 6 else None
                if wrong is None and row[5] not in tuple(LETTERS):
                    wrong = f"the answer is {row[5][:40]!r}"
                if wrong is None and len(row[0]) > _MOST_CHARACTERS:
                    wrong = "a question of over a million characters"
                if wrong is not None:
                    raise UserError(
                        wrong,
                        where=where,
                        allowed="question,A,B,C,D,answer; the answer one of A, B, C, D; no header",
                        fix=fix,
                    )
                yield {
                    "question": row[0],
                    "subject": subject,
                    "choices": row[1:5],
                    "answer": LETTERS.index(row[5]),
                }
    except csv.Error as error:
        raise UserError(f"is no CSV: {error}", where=where, fix=fix) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=str(path), fix="save it as UTF-8") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(
            f"is not JSON: {error.msg}",
            where=f"{path}:{error.lineno}",
            fix="fetch the file again, or mend the line",
        ) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", where=str(path), fix="save it as UTF-8") from error


def _read_bbh(folder: Path, subject: str) -> Splits:
    path = folder / f"{subject}.json"
    data = _json(path)
    examples = data.get("examples") if isinstance(data, dict) else None
    if not isinstance(examples, list):
        raise UserError("has no list `examples`", where=str(path), allowed='{"examples": [...]}')
    for number, example in enumerate(examples, start=1):
        _check_texts(example, ("input", "target"), f"{path}: example {number}")
    return {"test": [{name: e[name] for name in ("input", "target")} for e in examples]}


def _read_gsm8k(folder: Path, _: str) -> Splits:
    splits: Splits = {}
    for split in ("train", "test"):
        splits[split] = []
        for where, data in read_objects(folder / f"{split}.jsonl"):
            _check_texts(data, ("question", "answer"), where)
            if "####" not in data["answer"]:
                allowed = "a solution, then `#### ` and the number"
                raise UserError("the answer has no ####", where=where, allowed=allowed)
            splits[split].append({name: data[name] for name in ("question", "answer")})
    return splits


def _check_texts(data: Any, names: tuple[str, ...], where: str) -> None:
    wrong = [n for n in names if not isinstance(data, dict) or not isinstance(data.get(n), str)]
    if wrong:
        raise UserError(
            f"{wrong[0]!r} is missing, or no text",
            where=where,
            allowed=f"texts: {', '.join(names)}",
            fix="take the file of the suite's authors",
        )


def _read_truthfulqa(folder: Path, _: str) -> Splits:
    path = folder / "mc_task.json"
    data = _json(path)
    if not isinstance(data, list):
        raise UserError("is no list of questions", where=str(path))
    found = []
    for number, item in enumerate(data, start=1):
        where = f"{path}: question {number}"
        _check_texts(item, ("question",), where)
        targets = {name: _targets(item.get(name), name, where) for name in _TARGETS}
        found.append({"question": item["question"], **targets})
    return {"validation": found}


_TARGETS = ("mc1_targets", "mc2_targets")


def _targets(given: Any, name: str, where: str) -> Document:
    """The answers, each with 1 where it is true; MC1 has one true answer, and first."""
    labels = list(given.values()) if isinstance(given, dict) else []
    right = all(type(label) is int and label in (0, 1) for label in labels) and any(labels)
    if name == "mc1_targets":
        right = right and labels[0] == 1 and sum(labels) == 1
    if not right:
        raise UserError(
            f"{name} will not do",
            where=where,
            allowed='{"answer": 1, "another": 0, ...}; of mc1_targets the first alone is 1',
            fix="take the file of the suite's authors: data/mc_task.json",
        )
    return {"choices": list(given), "labels": labels}


def _humaneval_file(folder: Path, _: str) -> list[Path]:
    names = ("HumanEval.jsonl", "HumanEval.jsonl.gz")
    return [next((folder / name for name in names if (folder / name).is_file()), folder / names[1])]


def _read_humaneval(folder: Path, subject: str) -> Splits:
    (path,) = _humaneval_file(folder, subject)
    return {"test": [vars(problem) for problem in read_problems(path)]}


def _single(_: Path) -> list[str]:
    return [""]


_CSV = Layout(
    "mmlu/dev/SUBJECT_dev.csv and mmlu/test/SUBJECT_test.csv, no header, answers A to D",
    lambda folder: _named(folder / "test", "_test.csv"),
    _csv_files,
    _read_csv,
)
LAYOUTS = {
    "mmlu": _CSV,
    "miniature": _CSV._replace(wanted="what the pipeline has made, in MMLU's layout"),
    "bbh": Layout(
        "bbh/TASK.json, each with its list `examples`",
        lambda folder: _named(folder, ".json"),
        lambda folder, subject: [folder / f"{subject}.json"],
        _read_bbh,
    ),
    "gsm8k": Layout(
        "gsm8k/train.jsonl and gsm8k/test.jsonl",
        _single,
        lambda folder, _: [folder / f"{split}.jsonl" for split in ("train", "test")],
        _read_gsm8k,
    ),
    "humaneval": Layout(
        "humaneval/HumanEval.jsonl, or HumanEval.jsonl.gz",
        _single,
        _humaneval_file,
        _read_humaneval,
    ),
    "truthfulqa": Layout(
        "truthfulqa/mc_task.json",
        _single,
        lambda folder, _: [folder / "mc_task.json"],
        _read_truthfulqa,
    ),
}
