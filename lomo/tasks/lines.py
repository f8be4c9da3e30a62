"""The lines of a task's files, read so that whatever is wrong has its file and line.

One JSON object a line, in SuperGLUE's own layout or as `datasets` exports it. A reader takes a
line's object, checks it, and gives the documents in it, each with the index of its candidate as
`label`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomo.errors import UserError

# The longest line of SuperGLUE has 40 kB. One of a megabyte is a file without line breaks, and to
# split it into tokens would take minutes and gigabytes.
MAX_LINE_BYTES = 10**6

_MEND_LINE = "mend the line, or take it out"
_UNPACK = "unpack it: what is wanted is text, one JSON object a line"
_RECODE = "save it as UTF-8: iconv -f UTF-16 -t UTF-8"
# First bytes -> what the file is, and what to do.
_NO_JSONL: dict[bytes, tuple[str, str]] = {
    b"version https://git-lfs": (
        "a Git LFS pointer, not the file",
        "git lfs pull, in the repository that it is from",
    ),
    b"\xff\xfe": ("UTF-16 text, not UTF-8", _RECODE),
    b"\xfe\xff": ("UTF-16 text, not UTF-8", _RECODE),
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"PK\x03\x04": ("a zip archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", _UNPACK),
    b"PAR1": ("a parquet file", "datasets.Dataset.from_parquet(FILE).to_json(...)"),
    b"ARROW1": ("an arrow file", "datasets.Dataset.from_file(FILE).to_json(...)"),
    b"<": ("a page of HTML or XML", "fetch the file itself, not the page that shows it"),
}


class TwiceError(Exception):
    """A key that stands twice in an object: to take either would be a guess."""


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of the file with where it stands (file:line); blank lines are left out.

    A byte-order mark of UTF-8 and Windows' line ends are no mistakes. Raises UserError for a file
    that is none of this kind or can't be read, and for a line that is no JSON object.
    """
    try:
        with path.open("rb") as file:
            check_kind(path, file.read(64))
            file.seek(0)
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 2):
                number += 1
                where = f"{path}:{number}"
                if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                    raise UserError(
                        "the line is too long",
                        where=where,
                        allowed=f"at most {MAX_LINE_BYTES:,} bytes a line",
                        fix="write one object a line, and no longer text than a model can read",
                    )
                if line.strip():
                    yield where, _parsed(line, where)
    except OSError as error:
        raise UserError(
            f"can't be read ({error.strerror})",
            where=str(path),
            allowed="a file that you may read",
            fix="look at what lies there: ls -lL",
        ) from error


def broken_link(path: Path) -> str | None:
    """What `path` points to if that is not there; None for all else."""
    return str(path.readlink()) if path.is_symlink() and not path.exists() else None


def check_kind(path: Path, head: bytes) -> None:
    """Raises UserError for a file whose first bytes are of no text."""
    found = next((kind for start, kind in _NO_JSONL.items() if head.startswith(start)), None)
    if found is None and b"\0" in head:
        only_zeros = not head.strip(b"\0")
        found = (
            ("only zero bytes: its content was never written", "fetch or write it again")
            if only_zeros
            else ("not UTF-8 text: UTF-16, or no text at all", _RECODE)
        )
    if found:
        raise UserError(
            f"the file is {found[0]}",
            where=str(path),
            allowed="UTF-8 text, one JSON object a line",
            fix=found[1],
        )


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        data = json.loads(line.decode("utf-8-sig"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        problem = f"the line is not UTF-8 text: byte {error.start + 1} is {line[error.start]:#x}"
        raise UserError(problem, where=where, fix=_MEND_LINE) from error
    except json.JSONDecodeError as error:
        problem = f"the line is not JSON: {error.msg} at character {error.pos + 1}"
        fix = _MEND_LINE
        if line.strip() in (b"{", b"["):
            fix = "write each object on one line: jq -c . FILE, or jq -c '.[]' FILE for a list"
        raise UserError(problem, where=where, fix=fix) from error
    except TwiceError as error:
        raise UserError(
            f"the key {error.args[0]!r} stands twice in one object", where=where, fix=_MEND_LINE
        ) from error
    except RecursionError as error:
        raise UserError("the line is nested too deep", where=where, fix=_MEND_LINE) from error
    except ValueError as error:  # Python's limit to the digits of a number
        raise UserError(
            "the line holds a number of thousands of digits", where=where, fix=_MEND_LINE
        ) from error
    if not isinstance(data, dict):
        raise UserError(
            "the line is not a JSON object",
            where=where,
            allowed='{"field": value, ...}, one object a line',
            fix=_MEND_LINE,
        )
    return data


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these pairs. Raises TwiceError."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise TwiceError(next(key for key in keys if keys.count(key) > 1))
    return found


Document = dict[str, Any]

# What `load_dataset("super_glue", TASK)[SPLIT].to_json(...)` writes: fields in one row, and labels
# as numbers. In all six tasks the number is the index of our candidate (0 of RTE is `entailment`).
EXPORTED = {
    "rte": (),
    "boolq": (),
    "wsc": ("span1_text", "span2_text"),
    "wic": (),
    "multirc": ("paragraph", "question"),
    "copa": (),
}
EXPORTED_LABELS: dict[Any, int] = {0: 0, 1: 1}
_HINT = (
    "this looks like the export of `datasets` (labels 0 and 1; in RTE 0 is entailment): give its "
    "validation file the name validation.jsonl, and train.jsonl beside it is read as exported too"
)
_HINT_BACK = (
    "beside validation.jsonl all is read as the export of `datasets`; the validation file of "
    "SuperGLUE itself is val.jsonl"
)


@dataclass(frozen=True)
class Layout:
    """How the lines of one task's files are read."""

    task: str
    text_fields: tuple[str, ...]
    labels: dict[Any, int]
    read: Callable[[Document, Layout, str], Iterator[Document]]
    exported: bool = False

    @property
    def hint(self) -> str:
        """What to do where a line is of the other layout."""
        return _HINT_BACK if self.exported else _HINT


def own_layout(task: str, text_fields: tuple[str, ...], labels: dict[Any, int]) -> Layout:
    """SuperGLUE's own layout, and that of any task which is like one of its flat ones."""
    return Layout(task, text_fields, labels, _READERS.get(task, _flat))


def exported_layout(task: str, text_fields: tuple[str, ...]) -> Layout:
    """The layout of the same task's files as `datasets` exports them."""
    read = {"copa": _copa, "multirc": _exported_multirc}.get(task, _flat)
    return Layout(task, text_fields + EXPORTED[task], EXPORTED_LABELS, read, exported=True)


def _object(data: Any, name: str, where: str) -> Document:
    if not isinstance(data, dict):
        raise UserError(f"{name} is not a JSON object", where=where)
    return data


def text_of(
    data: Document, field: str, where: str, *, may_be_empty: bool = False, hint: str | None = None
) -> str:
    """The text in a field of an example. Raises UserError where it is none, or blank."""
    value = data.get(field)
    if not isinstance(value, str) or not (value.strip() or may_be_empty):
        problem = "lacks" if field not in data else "has no text in"
        raise UserError(
            f"the example {problem} the field {field!r}", where=where, allowed="a text", fix=hint
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"the field {field!r} holds {ascii(value[error.start])[1:-1]}, half of a character",
            where=where,
            allowed="whole characters: an emoji is two such escapes, or itself in UTF-8",
            fix="mend the line, or take it out",
        ) from error
    return value


def _label(data: Document, layout: Layout, where: str) -> int:
    allowed = ", ".join(json.dumps(label) for label in layout.labels)
    if "label" not in data:
        raise UserError(
            "the example lacks the field 'label'",
            where=where,
            allowed=allowed,
            fix="SuperGLUE's test files have no labels: give train and val",
        )
    value = data["label"]
    # In Python True == 1: a JSON true must not pass for COPA's 1, nor 1 for BoolQ's true.
    for label, index in layout.labels.items():
        if type(value) is type(label) and value == label:
            return index
    shown = json.dumps(value)
    fix = None
    if type(value) is int and value == -1:
        fix = "-1 marks a row without a label, as in the export of a test split: give train and val"
    elif type(value) is int and not any(type(label) is int for label in layout.labels):
        fix = layout.hint if layout.task in EXPORTED else None
    elif type(value) is not int and layout.exported:
        fix = layout.hint
    raise UserError(
        f"label {shown if len(shown) <= 60 else shown[:60] + '...'} is out of range",
        where=where,
        allowed=allowed,
        fix=fix,
    )


def _flat(data: Document, layout: Layout, where: str) -> Iterator[Document]:
    hint = layout.hint if _is_other_layout(data, layout) else None
    fields = {field: text_of(data, field, where, hint=hint) for field in layout.text_fields}
    yield {**fields, "label": _label(data, layout, where)}


def _is_other_layout(data: Document, layout: Layout) -> bool:
    """Whether a line has the other layout's fields where those of its own are missing."""
    nested = {"wsc": "target", "multirc": "passage"}.get(layout.task)
    flat = {"wsc": "span1_text", "multirc": "paragraph"}.get(layout.task)
    other, own = (nested, flat) if layout.exported else (flat, nested)
    return other in data and own not in data


def _copa(data: Document, layout: Layout, where: str) -> Iterator[Document]:
    if data.get("question") not in ("cause", "effect"):
        raise UserError(
            f"question {data.get('question')!r} is unknown", where=where, allowed="cause, effect"
        )
    for document in _flat(data, layout, where):
        if document["choice1"] == document["choice2"]:
            raise UserError(
                "choice1 and choice2 are the same text: neither is right",
                where=where,
                fix="mend the line, or take it out",
            )
        yield document


def _wsc(data: Document, layout: Layout, where: str) -> Iterator[Document]:
    target = data.get("target")
    if not isinstance(target, dict):
        raise UserError(
            "the example lacks the field 'target'",
            where=where,
            allowed='{"span1_text": a text, "span2_text": a text}',
            fix=layout.hint if _is_other_layout(data, layout) else None,
        )
    spans = {field: text_of(target, field, where) for field in ("span1_text", "span2_text")}
    for document in _flat(data, layout, where):
        yield {**document, **spans}


def _multirc(data: Document, layout: Layout, where: str) -> Iterator[Document]:
    passage = data.get("passage")
    if not isinstance(passage, dict) or not isinstance(passage.get("questions"), list):
        raise UserError(
            "the example lacks the field 'passage' with 'questions'",
            where=where,
            allowed='{"text": a text, "questions": [{"question": a text, "answers": [...]}]}',
            fix=layout.hint if _is_other_layout(data, layout) else None,
        )
    paragraph = text_of(passage, "text", where)
    for question in passage["questions"]:
        answers = _object(question, "a question", where).get("answers")
        if not isinstance(answers, list):
            raise UserError("a question lacks the field 'answers'", where=where, allowed="a list")
        for answer in answers:
            _object(answer, "an answer", where)
            yield {
                "paragraph": paragraph,
                "question": text_of(question, "question", where),
                # The original files hold a few candidate answers without a word.
                "answer": text_of(answer, "text", where, may_be_empty=True),
                "label": _label(answer, layout, where),
            }


def _exported_multirc(data: Document, layout: Layout, where: str) -> Iterator[Document]:
    for document in _flat(data, layout, where):
        yield {**document, "answer": text_of(data, "answer", where, may_be_empty=True)}


_READERS: dict[str, Callable[[Document, Layout, str], Iterator[Document]]] = {
    "copa": _copa,
    "wsc": _wsc,
    "multirc": _multirc,
}
# Tasks whose documents have more fields than their entry names.
READ_IN_PARTS = frozenset(_READERS)
