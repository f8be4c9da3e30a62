"""HumanEval: its file read or refused, its own solutions passed, and changed ones failed."""

from __future__ import annotations

import ast
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from lomo.contained.judge import Judged, Limits
from lomo.contained.probe import cannot_contain
from lomo.errors import UserError
from lomo.suites.humaneval import Problem, completion_of, pass_at_1, read_problems, score

ROOT = Path(__file__).parents[2]
FILE = (
    Path(os.environ.get("LOMO_TEST_DATA", ROOT.parent / "shared" / "data"))
    / "benchmarks/humaneval/HumanEval.jsonl.gz"
)
LINE = {
    "task_id": "Own/0",
    "prompt": 'def half(x):\n    """Half of x."""\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": "def check(candidate):\n    assert candidate(3) == 1.5\n",
}
# Every fifteenth, and those whose tests call what else the prompt or the program defines.
QUICK = (0, 15, 30, 32, 33, 38, 45, 50, 75, 90)

needs_data = pytest.mark.skipif(not FILE.exists(), reason=f"no such test data: {FILE}")
needs_sandbox = pytest.mark.skipif(cannot_contain() is not None, reason=str(cannot_contain()))


def written(path: Path, *lines: dict[str, Any]) -> Path:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


class Changed(ast.NodeTransformer):
    """Adds one to what a function returns, or returns None where that can't be."""

    def visit_Return(self, node: ast.Return) -> ast.Return:
        return ast.Return(ast.Tuple([node.value or ast.Constant(None), ast.Constant(1)]))


def changed(problem: Problem) -> str:
    """The prompt with a solution that returns a pair for each value."""
    tree = ast.parse(problem.prompt + problem.canonical_solution)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == problem.entry_point:
            Changed().visit(node)
    return ast.unparse(ast.fix_missing_locations(tree))


@needs_data
def test_the_authors_file_is_read_whole() -> None:
    problems = read_problems(FILE)
    assert [problem.task_id for problem in problems] == [f"HumanEval/{n}" for n in range(100)]
    assert problems[0].entry_point == "has_close_elements"
    assert problems[0].prompt.startswith("from typing import List")


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_packed_and_unpacked_are_the_same(name: str, tmp_path: Path) -> None:
    assert read_problems(written(tmp_path / name, LINE)) == [Problem(**LINE)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "holds no problem"),
        ([{key: LINE[key] for key in LINE if key != "test"}], "'test' is missing"),
        ([LINE | {"prompt": ["def half(x):"]}], "'prompt' is missing, or no text"),
        ([LINE, LINE], "stands twice"),
        ([LINE | {"prompt": "def half(x)"}], "is not Python"),
        ([LINE | {"prompt": "\0"}], "is not Python"),
        ([LINE | {"entry_point": "third"}], "does not define third"),
        ([LINE | {"test": "assert half(3) == 1.5"}], "does not define check"),
    ],
)
def test_a_line_that_will_not_do_is_refused(
    lines: list[dict[str, Any]], words: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "own.jsonl", *lines)
    with pytest.raises(UserError, match=words) as refused:
        read_problems(path)
    assert refused.value.where.startswith(str(path))


def test_an_archive_that_is_none_or_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    whole = gzip.compress(json.dumps(LINE).encode())
    for content in (b'{"task_id": 1}\n', whole[:-20], whole[:30] + b"\xff" + whole[31:], b""):
        path.write_bytes(content)
        with pytest.raises(UserError) as refused:
            read_problems(path)
        assert refused.value.where == str(path)


def test_an_archive_of_endless_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * (101 << 20), compresslevel=1))
    with pytest.raises(UserError, match="unpacks to over 104,857,600 bytes"):
        read_problems(path)


def test_a_mistake_in_a_packed_file_has_its_name_and_line(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(LINE).encode() + b"\n{cut\n"))
    with pytest.raises(UserError) as refused:
        read_problems(path)
    assert refused.value.where == f"{path}:2"


def test_a_completion_ends_where_something_else_begins() -> None:
    assert completion_of("    return 1\n\ndef other():\n") == "    return 1\n"
    assert completion_of("    return 1\nprint(half(2))\n# so") == "    return 1"
    assert completion_of("    # a note\n    if x:\n        return 1") == (
        "    # a note\n    if x:\n        return 1"
    )


def test_pass_at_1_is_the_mean_over_problems_of_the_mean_over_completions() -> None:
    yes, no = Judged(True, "passed", "", 0.1), Judged(False, "", "", 0.1)
    assert pass_at_1({"a": [yes], "b": [no]}) == 0.5
    assert pass_at_1({"a": [yes, no, no, no], "b": [yes]}) == 0.625
    for nothing in ({}, {"a": [yes], "b": []}):
        with pytest.raises(ValueError):
            pass_at_1(nothing)


def check_solved_and_not(problems: list[Problem]) -> None:
    for problem in problems:
        right = score(problem, problem.canonical_solution)
        assert right.passed, (problem.task_id, right)
        whole = changed(problem)
        assert not score(Problem(**{**vars(problem), "prompt": ""}), whole).passed, whole


@needs_data
@needs_sandbox
def test_right_ones_pass_and_changed_ones_fail() -> None:
    problems = read_problems(FILE)
    check_solved_and_not([problems[number] for number in QUICK])


@needs_data
@needs_sandbox
@pytest.mark.slow
def test_all_right_ones_pass_and_all_changed_ones_fail() -> None:
    check_solved_and_not(read_problems(FILE))


@needs_sandbox
@pytest.mark.parametrize(
    ("completion", "why"),
    [
        ("    return x * 2\n", "the test raised AssertionError"),
        ("    return x /\n", "it raised SyntaxError while it was loaded"),
        ("    return y\n", "it raised NameError"),
        ("    pass\nhalf = 3\n", "it raised TypeError while it was loaded"),
        ("    pass\ndel half\n", "it raised KeyError while it was loaded"),
        ("    import numpy\n    return numpy.divide(x, 2)\n", "it raised ModuleNotFoundError"),
        ("    while True: pass\n", "the program ended early (exit code 137)"),
        ("    return '\\x1b[2J' + 1 / 0\n", "it raised ZeroDivisionError"),
    ],
)
def test_why_not_is_told(completion: str, why: str) -> None:
    judged = score(Problem(**LINE), completion, Limits(cpu_s=1))
    assert (judged.passed, judged.why) == (False, why)


@needs_sandbox
def test_the_whole_of_pythons_library_that_computes_is_there() -> None:
    """What solutions import, and a few that load other libraries."""
    names = "collections dataclasses decimal fractions functools hashlib heapq itertools math re"
    more = "bisect bz2 copy ctypes datetime lzma operator random statistics string typing zlib"
    body = f"    import {', '.join([*names.split(), *more.split()])}\n    return x / 2\n"
    assert score(Problem(**LINE), body).passed


@needs_sandbox
def test_dataclasses_random_and_sets_are_as_ever_and_the_same_each_time() -> None:
    prompt = "import dataclasses, random\n\ndef drawn(x):\n    pass\n"
    body = (
        "\n@dataclasses.dataclass\nclass One:\n    at: int\n\n"
        "def drawn(x):\n    print(list({'a', 'b', 'c', 'd', 'e'}), random.random(), One(2).at)\n"
    )
    test = "def check(candidate):\n    assert candidate(1) is None\n"
    problem = Problem("Own/1", prompt, "drawn", "", test)
    first, second = (score(problem, body) for _ in range(2))
    assert first.passed and second.passed
    assert first.output == second.output != ""


@needs_sandbox
def test_what_a_call_does_to_its_arguments_does_not_come_back() -> None:
    """Unlike in the authors' harness, where both are one process; none of their tests looks."""
    prompt = "def emptied(x):\n    pass\n"
    test = (
        "def check(candidate):\n    held = [1, 2]\n    assert candidate(held) == 2\n"
        "    assert held == [1, 2]\n"
    )
    body = "    num = len(x)\n    x.clear()\n    return num\n"
    assert score(Problem("Own/2", prompt, "emptied", "", test), body).passed


@needs_sandbox
def test_a_test_that_asks_with_what_cannot_be_sent_is_told_and_fails_nobody() -> None:
    test = "def check(candidate):\n    assert candidate([len]) == 1\n"
    with pytest.raises(UserError, match="no plain data") as refused:
        score(Problem(**LINE | {"test": test}), LINE["canonical_solution"])
    assert refused.value.where == "Own/0"


@needs_sandbox
@pytest.mark.parametrize(
    "test",
    [
        "def check(candidate):\n    raise SystemExit(0)\n",
        "import os\ndef check(candidate):\n    os._exit(0)\n",
        "def check(candidate):\n    print('passed')\n    assert False\n",
        "raise ValueError\ndef check(candidate):\n    pass\n",
        # Even from where the pipe of the verdict is, its words alone are no verdict.
        "import os\ndef check(candidate):\n    for number in range(3, 256):\n        try:\n"
        '            os.write(number, b\'{"nonce": "0", "passed": true, "why": ""}\\n\')\n'
        "        except OSError:\n            pass\n    assert False\n",
    ],
)
def test_a_test_that_does_not_come_to_its_end_is_no_pass(test: str) -> None:
    assert not score(Problem(**LINE | {"test": test}), LINE["canonical_solution"]).passed
