"""The fingerprint: an edit changes exactly the runs that the edited lines define."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lomo.methods import MODULES
from lomo.provenance import ENTRY

ROOT = Path(__file__).parent.parent

TRAIN = {f"train {method}" for method in MODULES}
MEASURE = {f"measure {method}" for method in MODULES}
PRETRAIN, GENERATE = {"pretrain"}, {"generate"}
RTE, COPA = {"train lomo rte"}, {"train lomo copa"}
TASKS = RTE | COPA

ASK = f"""
import json
from lomo.provenance import fingerprint
names = {sorted(TRAIN | TASKS | MEASURE | PRETRAIN | GENERATE)!r}
print(json.dumps({{name: fingerprint(*name.split()) for name in names}}))
"""

Fingerprints = dict[str, str]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copied = tmp_path_factory.mktemp("copy") / "lomo"
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "lomo", copied, ignore=ignore))


def ask(package: Path) -> Fingerprints:
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=package.parent, capture_output=True, text=True, check=True
    )
    answered: Fingerprints = json.loads(done.stdout)
    return answered


@pytest.fixture(scope="module")
def before(package: Path) -> Fingerprints:
    return ask(package)


def added_statement(text: str) -> str:
    return text + "\n_EDITED = 1\n"


def touched_comments_and_docstrings(text: str) -> str:
    text = re.sub(r'^( *)"""(?=[A-Z])', r'\1"""Touched. ', text, flags=re.MULTILINE)
    return text + "\n# touched\n"


def of(*methods: str) -> set[str]:
    return {f"{kind} {method}" for kind in ("train", "measure") for method in methods}


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
        ("train.py", TRAIN | TASKS),
        ("evaluate.py", TRAIN | TASKS),
        ("measure.py", MEASURE),
        ("memory/meter.py", MEASURE),
        ("batches.py", TRAIN | TASKS | MEASURE | PRETRAIN),
        ("pretrain.py", PRETRAIN),
        ("tasks/superglue.py", TRAIN | TASKS),
        ("tasks/miniature/lexicon.py", GENERATE),
        ("tasks/rte.yaml", RTE),
        ("cli.py", set()),
        ("plan.py", set()),
        ("specs.py", set()),
        ("refusals.py", set()),
        ("support.py", set()),
        ("errors.py", set()),
    ],
)
def test_an_edit_changes_the_fingerprints_of_just_what_it_defines(
    package: Path, before: Fingerprints, file: str, changed: set[str]
) -> None:
    edit = edited_prompt if file.endswith(".yaml") else added_statement
    assert changed_by(edit, [package / file], package, before) == changed


def edited_prompt(text: str) -> str:
    edited = text.replace("Does this mean", "Is it so")
    assert edited != text
    return edited


def test_an_edited_update_rule_is_an_edit(package: Path, before: Fingerprints) -> None:
    def halved(text: str) -> str:
        edited = re.sub(r"-(self\.|group\[\"|lr)", r"-0.5 * \1", text, count=1)
        assert edited != text, "the update rule is written differently now: adapt this test"
        return edited

    edited = changed_by(halved, [package / "optim/lomo.py"], package, before)
    assert edited == of("lomo", "lora_lomo") | TASKS


def test_touched_comments_and_docstrings_change_nothing(
    package: Path, before: Fingerprints
) -> None:
    files = sorted(package.rglob("*.py"))
    assert changed_by(touched_comments_and_docstrings, files, package, before) == set()


def test_a_touched_comment_of_a_task_changes_nothing(package: Path, before: Fingerprints) -> None:
    files = sorted((package / "tasks").glob("*.yaml"))
    assert changed_by(lambda text: "# touched\n" + text, files, package, before) == set()


def test_every_kind_of_run_has_its_entry() -> None:
    kinds = {name.split()[0] for name in TRAIN | MEASURE | PRETRAIN | GENERATE}
    assert kinds | {"analysis", "fits", "predict", "step"} == set(ENTRY)


def changed_by(
    edit: Callable[[str], str], files: list[Path], package: Path, before: Fingerprints
) -> set[str]:
    """What has another fingerprint while `files` are edited."""
    original = {file: file.read_text(encoding="utf-8") for file in files}
    try:
        for file, text in original.items():
            file.write_text(edit(text), encoding="utf-8")
        after = ask(package)
    finally:
        for file, text in original.items():
            file.write_text(text, encoding="utf-8")
    return {name for name in before if before[name] != after[name]}
