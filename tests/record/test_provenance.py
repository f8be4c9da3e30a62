"""The fingerprint: an edit changes exactly the runs that the edited lines define."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lomo.methods import MODULES
from lomo.record.provenance import ENTRY, _dumped, _statements

ROOT = Path(__file__).parents[2]

TRAIN = {f"train {method}" for method in MODULES}
MEASURE = {f"measure {method}" for method in MODULES}
INSTRUCT = {f"instruct {method}" for method in MODULES}
PRETRAIN, GENERATE = {"pretrain"}, {"generate"}
SUITE, GENERATE_SUITES = {"suite"}, {"generate_suites"}
RTE, COPA = {"train lomo rte"}, {"train lomo copa"}
TASKS = RTE | COPA
NAMES = TRAIN | TASKS | INSTRUCT | MEASURE | PRETRAIN | GENERATE | SUITE | GENERATE_SUITES

# One process imports the copied package and forks a child for each answer, which reads it anew.
# What hangs on a file's text alone is not worked out again where that is the same.
ANSWER = f"""
import functools, json, os, sys
from lomo.record import provenance
from lomo.record.provenance import fingerprint
names = {sorted(NAMES)!r}
sources, source = {{}}, provenance._source.__wrapped__
@functools.cache
def of_text(name):
    file = provenance._file(name)
    key = name, file and file.read_bytes()
    if key not in sources:
        sources[key] = source(name)
    return sources[key]
provenance._source = of_text
def answer():
    of_text.cache_clear()
    for name in ("_file", "_imports", "_meaning", "fingerprint"):
        getattr(provenance, name).cache_clear()
    return json.dumps({{name: fingerprint(*name.split()) for name in names}})
answer()
for question in sys.stdin:
    if os.fork() == 0:
        print(answer(), flush=True)
        os._exit(0)
    elif os.wait()[1]:
        sys.exit("no answer")
"""

Fingerprints = dict[str, str]
ChangedBy = Callable[[Callable[[str], str], list[Path]], set[str]]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = tmp_path_factory.mktemp("copy") / "lomo"
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "lomo", copied, ignore=ignore))


@pytest.fixture(scope="module")
def ask(package: Path) -> Iterator[Callable[[], Fingerprints]]:
    """Asks for the fingerprints of the package as it is now."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", ANSWER], cwd=package.parent, stdin=pipe, stdout=pipe, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def answer() -> Fingerprints:
            print("again", file=questions, flush=True)
            answered: Fingerprints = json.loads(answers.readline())
            return answered

        yield answer


@pytest.fixture(scope="module")
def changed_by(ask: Callable[[], Fingerprints]) -> ChangedBy:
    """What has another fingerprint while `files` are edited."""
    before = ask()

    def changed(edit: Callable[[str], str], files: list[Path]) -> set[str]:
        original = {file: file.read_text(encoding="utf-8") for file in files}
        try:
            for file, text in original.items():
                file.write_text(edit(text), encoding="utf-8")
            after = ask()
        finally:
            for file, text in original.items():
                file.write_text(text, encoding="utf-8")
        return {name for name in before if before[name] != after[name]}

    return changed


def added_statement(text: str) -> str:
    return text + "\n_EDITED = 1\n"


def touched_comments_and_docstrings(text: str) -> str:
    text = re.sub(r'^( *)"""(?=[A-Z])', r'\1"""Touched. ', text, flags=re.MULTILINE)
    return text + "\n# touched\n"


def of(*methods: str) -> set[str]:
    return {f"{kind} {method}" for kind in ("train", "instruct", "measure") for method in methods}


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("optim/lomo.py", of("lomo", "lora_lomo") | TASKS),
        ("optim/adalomo.py", of("adalomo")),
        ("optim/master.py", of("sgd", "adamw")),
        ("optim/fused_backward.py", of("lomo", "lora_lomo", "adalomo") | TASKS),
        ("optim/__init__.py", set()),  # it only passes names on
        ("methods/lora.py", of("lora", "lora_lomo")),
        ("methods/sgd.py", of("sgd")),
        ("run/train.py", TRAIN | TASKS),
        ("run/loop.py", TRAIN | TASKS | INSTRUCT),
        ("run/instruct/work.py", INSTRUCT),
        ("run/instruct/perplexity.py", INSTRUCT),
        ("tasks/instructions.py", INSTRUCT),
        ("tasks/answers.py", INSTRUCT),
        ("run/evaluate.py", TRAIN | TASKS),
        ("run/measure.py", MEASURE),
        ("memory/measured/meter.py", MEASURE),
        ("tasks/batches.py", TRAIN | TASKS | INSTRUCT | MEASURE | PRETRAIN | SUITE),
        ("suites/layouts.py", SUITE),
        ("run/suites/lm.py", SUITE),
        ("run/suites/score.py", SUITE),
        ("contained/judge.py", SUITE),
        ("tasks/miniature/suite.py", GENERATE_SUITES),
        ("run/pretrain.py", PRETRAIN),
        ("tasks/superglue.py", TRAIN | TASKS),
        ("tasks/miniature/lexicon.py", GENERATE | GENERATE_SUITES),
        ("tasks/rte.yaml", RTE),
        ("cli.py", set()),
        ("study/plan.py", set()),
        ("specs.py", set()),
        ("study/refusals.py", set()),
        ("methods/support.py", set()),
        ("errors.py", set()),
    ],
)
def test_an_edit_changes_the_fingerprints_of_just_what_it_defines(
    package: Path, changed_by: ChangedBy, file: str, changed: set[str]
) -> None:
    edit = edited_prompt if file.endswith(".yaml") else added_statement
    assert changed_by(edit, [package / file]) == changed


def edited_prompt(text: str) -> str:
    edited = text.replace("Does this mean", "Is it so")
    assert edited != text
    return edited


def test_an_edited_update_rule_is_an_edit(package: Path, changed_by: ChangedBy) -> None:
    def halved(text: str) -> str:
        edited = re.sub(r"-(self\.|group\[\"|lr)", r"-0.5 * \1", text, count=1)
        assert edited != text, "the update rule is written differently now: adapt this test"
        return edited

    edited = changed_by(halved, [package / "optim/lomo.py"])
    assert edited == of("lomo", "lora_lomo") | TASKS


def test_a_name_from_another_module_is_an_edit(package: Path, changed_by: ChangedBy) -> None:
    """Both modules are sources of the method; which of them gives the name matters."""

    def other(text: str) -> str:
        edited = text.replace("import Lomo", "import AdaLomo as Lomo")
        assert edited != text
        return edited

    assert changed_by(other, [package / "methods/lomo.py"]) == of("lomo") | TASKS


def test_a_module_that_moves_changes_nothing(
    package: Path, ask: Callable[[], Fingerprints]
) -> None:
    """A file under another name, in another folder, that says the same, is the same code."""
    before = ask()
    old, new = package / "tasks/batches.py", package / "engines/rows.py"
    users = [file for file in package.rglob("*.py") if "lomo.tasks.batches" in file.read_text()]
    original = {file: file.read_text() for file in users}
    assert original
    old.rename(new)
    for file, text in original.items():
        file.write_text(text.replace("lomo.tasks.batches", "lomo.engines.rows"))
    try:
        assert ask() == before
    finally:
        new.rename(old)
        for file, text in original.items():
            file.write_text(text)


def test_touched_comments_and_docstrings_change_nothing(
    package: Path, changed_by: ChangedBy
) -> None:
    files = sorted(package.rglob("*.py"))
    assert changed_by(touched_comments_and_docstrings, files) == set()


def test_a_touched_comment_of_a_task_changes_nothing(package: Path, changed_by: ChangedBy) -> None:
    files = sorted((package / "tasks").glob("*.yaml"))
    assert changed_by(lambda text: "# touched\n" + text, files) == set()


def test_every_kind_of_run_has_its_entry() -> None:
    named = TRAIN | INSTRUCT | MEASURE | PRETRAIN | GENERATE | SUITE | GENERATE_SUITES
    kinds = {name.split()[0] for name in named}
    assert kinds | {"analysis", "fits", "predict", "step"} == set(ENTRY)


def test_no_statement_is_passed_over() -> None:
    text = """
try:
    match x:
        case 1: from a import b
except* E:
    with f() as g: import c
else:
    for i in j: pass
    else: import d
finally:
    while k: import e
async def h():
    async for l in m: return [lambda: n if o else p]
class Q:
    if r: import s
    elif t: import u
"""
    tree = ast.parse(text)
    walked = {node for node in ast.walk(tree) if isinstance(node, ast.stmt)}
    assert {node for node in _statements(tree) if isinstance(node, ast.stmt)} == walked


def test_a_source_is_the_same_code_to_each_python() -> None:
    """As 3.11 dumps it; 3.12 and 3.13 would each say it otherwise."""
    assert _dumped(ast.parse("def f(): pass")) == (
        "Module(body=[FunctionDef(name='f', args=arguments(posonlyargs=[], args=[], kwonlyargs=[], "
        "kw_defaults=[], defaults=[]), body=[Pass()], decorator_list=[])], type_ignores=[])"
    )
