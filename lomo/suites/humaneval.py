"""HumanEval: functions to be written from their head and description, each judged by its tests.

Read from the file of its authors (HumanEval.jsonl, or .jsonl.gz as they give it). Reading and
asking run nothing; `score` runs what a model has written, contained or not at all.
"""

from __future__ import annotations

import ast
import gzip
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lomo.contained.judge import Judged, Limits, UnfitTestError, judge
from lomo.errors import UserError
from lomo.system.files import write_bytes
from lomo.tasks.lines import read_objects

_FIELDS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
# The authors' file has some hundred kB; one that unpacks to more than this is another.
_MAX_BYTES = 100 << 20
# Where a completion ends: the first line of something else. The authors' list.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


@dataclass(frozen=True)
class Problem:
    """One line of the file: what a model is asked, and the function `check` that judges it."""

    task_id: str
    prompt: str
    entry_point: str
    canonical_solution: str
    test: str


def read_problems(path: Path) -> list[Problem]:
    """The problems in the file's order.

    Raises UserError for a file that can't be read, and for a line that lacks a field, stands twice,
    or whose prompt or test is no Python that defines what it must.
    """
    problems: dict[str, Problem] = {}
    for where, data in _objects(path):
        wrong = [name for name in _FIELDS if not isinstance(data.get(name), str)]
        if wrong:
            raise UserError(
                f"{wrong[0]!r} is missing, or no text",
                where=where,
                allowed=f"texts: {', '.join(_FIELDS)}",
                fix="take the file of HumanEval's authors: HumanEval.jsonl.gz",
            )
        problem = Problem(**{name: data[name] for name in _FIELDS})
        _check_defined(problem.prompt, problem.entry_point, f"{where}: prompt")
        _check_defined(problem.test, "check", f"{where}: test")
        if problem.task_id in problems:
            raise UserError(
                f"{problem.task_id} stands twice", where=where, fix="take one of the lines out"
            )
        problems[problem.task_id] = problem
    if not problems:
        raise UserError("holds no problem", where=str(path), allowed="one JSON object a line")
    return list(problems.values())


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `read_objects` gives them, of a file that is packed if its name says so."""
    if path.suffix != ".gz":
        yield from read_objects(path)
        return
    # Beside the reader and not in it: what reads the data of training stays as it is.
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, path.stem)
        try:
            with gzip.open(path) as packed:
                content = packed.read(_MAX_BYTES + 1)
            if len(content) > _MAX_BYTES:
                raise UserError(f"unpacks to over {_MAX_BYTES:,} bytes", where=str(path))
            write_bytes(text, content)
            for where, data in read_objects(text):
                yield where.replace(str(text), str(path)), data
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(
                f"can't be read as a gzip archive ({error})",
                where=str(path),
                fix="fetch it again; or name it without .gz if it is text: gzip --test FILE",
            ) from error
        except UserError as error:
            where = error.where.replace(str(text), str(path))
            raise UserError(
                error.what, where=where, allowed=error.allowed, fix=error.fix
            ) from error


def _check_defined(source: str, name: str, where: str) -> None:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"is not Python ({error})", where=where) from error
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if name not in defined:
        raise UserError(
            f"does not define {name}", where=where, allowed=f"a function `def {name}(...)`"
        )


def completion_of(generated: str) -> str:
    """What a model has written, up to the first of STOPS."""
    return generated[
        : min((at for stop in STOPS if (at := generated.find(stop)) >= 0), default=None)
    ]


def score(problem: Problem, completion: str, limits: Limits | None = None) -> Judged:
    """Whether the prompt with this completion passes the problem's test; it runs contained.

    Raises NotContainedError where it can't be: ask `lomo.contained.probe.require` when planning.
    Raises UserError for a problem whose test can't be asked across processes (none of HumanEval's
    is known).
    """
    try:
        return judge(
            problem.prompt + completion,
            prompt=problem.prompt,
            test=problem.test,
            entry_point=problem.entry_point,
            limits=limits,
        )
    except UnfitTestError as error:
        raise UserError(
            f"its test can't be used: {error}",
            where=problem.task_id,
            allowed="arguments of numbers, texts, lists, tuples, dicts and sets",
            fix="leave the problem out",
        ) from error


def pass_at_1(judged: Mapping[str, Sequence[Judged]]) -> float:
    """The share of problems solved by one completion: of each problem's completions, then of all.

    `judged` holds the completions of each problem by its id; raises ValueError where one has none.
    """
    empty = [task_id for task_id, ones in judged.items() if not ones]
    if empty or not judged:
        raise ValueError(f"nothing was judged of {empty or 'any problem'}")
    shares = [sum(one.passed for one in ones) / len(ones) for ones in judged.values()]
    return sum(shares) / len(shares)
