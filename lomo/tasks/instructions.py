"""Instructions with their answers, in Alpaca's layout: read item by item, drawn, and written as
prompts. Imports no torch.

A file holds objects with `instruction`, `input` (may be empty or missing) and `output`: in one JSON
list, or one after the other (JSON lines).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.tasks.lines import TwiceError, broken_link, check_kind, text_of, unique

LAYOUT = '{"instruction": a text, "input": a text or "", "output": a text}'
# The prompts of Stanford Alpaca, to the letter; the answer follows at once.
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)
# Of other layouts that are like it: what stands there would be lost.
_NOT_READ = ("history", "system")
_QUOTES = "“”„‟«»‹›‘’‚‛＂「」『』`'"
_MEND = "mend the item, or take it out"


@dataclass(frozen=True)
class Instruction:
    """One item of a file. number: from 1, in its file."""

    number: int
    instruction: str
    input: str
    output: str

    @property
    def prompt(self) -> str:
        """What stands before the answer."""
        template = WITH_INPUT if self.input.strip() else WITHOUT_INPUT
        # Not one after the other: an instruction may hold {input}.
        return template.format_map({"instruction": self.instruction, "input": self.input})


@dataclass(frozen=True)
class Drawn:
    """The parts of a file that a run uses, apart from each other.

    num_repeated: items of the file that are left out of `dev` and `train`, since their prompt
    stands in a part that is scored.
    """

    train: list[Instruction]
    dev: list[Instruction]
    test: list[Instruction]
    num_repeated: int


def read_instructions(path: Path) -> tuple[Instruction, ...]:
    """All items of a file. Raises UserError, with file, item and line, for the first bad one."""
    text = _text_in(path)
    found = [_item(data, number, where) for number, (data, where) in _objects(text, path)]
    if not found:
        raise UserError(
            "the file holds no item", where=str(path), allowed=f"items such as {LAYOUT}"
        )
    return tuple(found)


def draw(path: Path, *, num_train: int, num_dev: int, num_test: int, seed: int) -> Drawn:
    """The file's items, shuffled by `seed`: `test`, which is held out, then `dev` and `train`.

    `test` takes no more than a fifth of the file, `dev` of what is left. No prompt of a part that
    is scored stands in another part. Raises UserError where nothing is left to a part.
    """
    pool = list(read_instructions(path))
    random.Random(seed).shuffle(pool)
    test, rest = _taken(pool, num_test)
    left = _without(rest, test)
    dev, left = _taken(left, num_dev) if num_dev else ([], left)
    train = _without(left, dev)
    if not (test and train and (dev or not num_dev)):
        parts = "train, dev and test" if num_dev else "train and test"
        raise UserError(
            f"the file has {len(pool)} items with too few prompts that differ for {parts}",
            where=str(path),
            fix="add items with other instructions",
        )
    num_repeated = len(pool) - len(test) - len(dev) - len(train)
    return Drawn(train[:num_train], dev, test, num_repeated)


def _taken(pool: list[Instruction], number: int) -> tuple[list[Instruction], list[Instruction]]:
    number = min(number, max(1, len(pool) // 5))
    return pool[:number], pool[number:]


def _without(pool: list[Instruction], scored: list[Instruction]) -> list[Instruction]:
    known = {item.prompt for item in scored}
    return [item for item in pool if item.prompt not in known]


def _text_in(path: Path) -> str:
    if not path.is_file():
        link = broken_link(path)
        raise UserError(
            f"a broken link to {link}" if link else "no such file",
            where=str(path),
            allowed=f"a JSON or JSONL file in Alpaca's layout, {LAYOUT}",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"can't be read ({error.strerror})", where=str(path)) from error
    check_kind(path, data[:64])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"not UTF-8 text: byte {error.start + 1} is {data[error.start]:#x}",
            where=f"{path}:{line}",
            fix="save it as UTF-8",
        ) from error


def _objects(text: str, path: Path) -> Iterator[tuple[int, tuple[Any, str]]]:
    """Each value with its number, from 1, and where it stands (file, item and line)."""
    decoder = json.JSONDecoder(object_pairs_hook=unique)
    at = _skipped(text, 0)
    listed = text.startswith("[", at)
    at = _skipped(text, at + 1) if listed else at
    number, line, seen = 0, 1, 0
    while at < len(text) and not (listed and text.startswith("]", at)):
        number += 1
        line, seen = line + text.count("\n", seen, at), at
        where = f"{path}: item {number} (line {line})"
        data, at = _value(decoder, text, at, where)
        yield number, (data, where)
        at = _skipped(text, at)
        if listed and text.startswith(",", at):
            at = _skipped(text, at + 1)
        elif listed and at < len(text) and not text.startswith("]", at):
            raise UserError(
                f"behind it stands {text[at]!r}, no comma and no end of the list",
                where=where,
                fix=_MEND,
            )
    if listed and not text.startswith("]", at):
        raise UserError(
            f"the file ends within its list, after {number} items: it was cut",
            where=str(path),
            fix="fetch it again, or close the list with ]",
        )
    if listed and text[at + 1 :].strip():
        behind = at + 1 + len(text[at + 1 :]) - len(text[at + 1 :].lstrip())
        raise UserError(
            "something stands behind the end of the list",
            where=f"{path}:{text.count(chr(10), 0, behind) + 1}",
            fix="write one list, or one object a line without a list",
        )


def _value(decoder: json.JSONDecoder, text: str, at: int, where: str) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        found = text[error.pos : error.pos + 1]
        line, column = error.lineno, error.colno
        if not text[error.pos :].strip() or error.msg.startswith("Unterminated string"):
            problem, fix = "the item is not finished: the file was cut here", "fetch it again"
        elif found in _QUOTES:
            problem = (
                f"{found} (U+{ord(found):04X}) stands at line {line}, column {column}, where JSON "
                'has "'
            )
            fix = "write names and texts between \"; another language's quotes only within a text"
        else:
            problem = f"the item is not JSON: {error.msg} at line {line}, column {column}"
            fix = _MEND
        raise UserError(problem, where=where, allowed=LAYOUT, fix=fix) from error
    except TwiceError as error:
        problem = f"the key {error.args[0]!r} stands twice in one object"
        raise UserError(problem, where=where, fix=_MEND) from error
    except RecursionError as error:
        raise UserError("the item is nested too deep", where=where, fix=_MEND) from error
    except ValueError as error:  # Python's limit to the digits of a number
        problem = "the item holds a number of thousands of digits"
        raise UserError(problem, where=where, fix=_MEND) from error


def _skipped(text: str, at: int) -> int:
    """The next place that is no white space."""
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _item(data: Any, number: int, where: str) -> Instruction:
    if not isinstance(data, dict):
        what = "a list of lists" if isinstance(data, list) else "no object"
        raise UserError(f"the item is {what}", where=where, allowed=LAYOUT, fix=_MEND)
    for name in _NOT_READ:
        if data.get(name):
            raise UserError(
                f"the field {name!r} is not empty, and would be left out of the prompt",
                where=where,
                allowed=LAYOUT,
                fix="write it into the instruction or the input, or take the item out",
            )
    for name in ("instruction", "input", "output"):
        kind = type(data.get(name, "")).__name__
        if kind != "str":
            words = {"NoneType": "null", "dict": "an object", "list": "a list", "bool": "a flag"}
            raise UserError(
                f"the field {name!r} holds {words.get(kind, 'a number')}, no text",
                where=where,
                allowed=LAYOUT,
                fix=_MEND,
            )
    return Instruction(
        number,
        text_of(data, "instruction", where, hint=_MEND),
        text_of(data, "input", where, may_be_empty=True) if "input" in data else "",
        text_of(data, "output", where, hint=_MEND),
    )
