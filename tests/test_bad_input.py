"""Each case of tests/bad_input: exit code 2 and one message: what, where, allowed, to mend."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis import cli as analysis_cli
from lomo import cli
from lomo.model.registry import registry
from lomo.study.config import Study, load_study
from lomo.study.plan import make_plan

ROOT = Path(__file__).parent.parent
FOLDER = Path(__file__).parent / "bad_input"

GOOD_STUDY: dict[str, Any] = {
    "study": "bad",
    "title": "good until a case changes it",
    "data": "data",
    "wandb": "off",
    "device": "cpu",
    "superglue": {
        "models": ["model"],
        "methods": ["lomo"],
        "tasks": ["rte"],
        "settings": {"dtype": "float32", "max_length": 200, "epochs": 1},
    },
    "memory": {
        "models": ["model"],
        "methods": ["lomo"],
        "batch_size": 2,
        "sequence_length": 32,
        "dtype": "float32",  # where bfloat16 is slow, that is said before
    },
}
NO_WEIGHTS = (2).to_bytes(8, "little") + b"{}"  # a safetensors file of no tensor
GOOD_MODEL = {
    "config.json": '{"model_type": "llama", "max_position_embeddings": 256}',
    "tokenizer.json": "{}",
    "model.safetensors": NO_WEIGHTS,  # a command that loads them fails
}


@dataclass(frozen=True)
class Case:
    """What a user got wrong, the commands that must refuse it, and what the message must hold."""

    expect: list[str]
    command: str | list[str] = "plan"
    study: dict[str, Any] = field(default_factory=dict)  # laid over the good study; null removes
    text: str | bytes | None = ""  # the study file instead; null for none at all
    spec: dict[str, Any] = field(default_factory=dict)  # laid over the run's good spec
    spec_text: str = ""  # the spec instead
    files: dict[str, str | bytes | None] = field(default_factory=dict)  # null removes


CASES = {
    path.stem: Case(**yaml.safe_load(path.read_text(encoding="utf-8")))
    for path in sorted(FOLDER.glob("*.yaml"))
}
CALLS = [
    pytest.param(case, command, id=f"{name}-{command}")
    for name, case in CASES.items()
    for command in ([case.command] if isinstance(case.command, str) else case.command)
]
QUICK = [call for call in CALLS if call.values[1] != "snakemake"]
PIPELINE = [call for call in CALLS if call.values[1] == "snakemake"]


def laid_over(base: Any, change: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    merged = base | {key: laid_over(base.get(key), value) for key, value in change.items()}
    return {key: value for key, value in merged.items() if value is not None}


def write(path: Path, content: str | bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def arrange(tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the case's folder, goes there and gives the arguments of a command."""
    monkeypatch.chdir(tmp_path)
    registry.cache_clear()
    write(Path("config/models.yaml"), (ROOT / "config" / "models.yaml").read_bytes())
    shutil.copytree(data_folder, "data")
    for name, content in GOOD_MODEL.items():
        write(Path("model", name), content)

    def arranged(case: Case, command: str) -> list[str]:
        study = laid_over(GOOD_STUDY, case.study)
        spec = case.spec_text
        if command in ("train", "measure", "collect"):
            plan = make_plan(Study.model_validate(study), source="study.yaml")
            write(Path("results/bad/plan.json"), plan.model_dump_json())
            kinds = {run.kind: run.model_dump() for run in plan.runs.values()}
            spec = spec or json.dumps(kinds.get(command, {}) | case.spec)
        text = yaml.safe_dump(study, sort_keys=False) if case.text == "" else case.text
        write(Path("study.yaml"), text)
        for name, content in case.files.items():
            write(Path(name), content)
        registry.cache_clear()
        return {
            "plan": ["plan", "study.yaml", "--out", "out/plan.json"],
            "collect": ["collect", "--results", "results/bad"],
            "snakemake": ["-n", "--cores", "1", "--configfile", "study.yaml"],
        }.get(command, [command, "--spec", spec, "--out", "out"])

    yield arranged
    registry.cache_clear()


def check(case: Case, returncode: int, message: str) -> None:
    assert returncode == 2, message
    assert message.startswith("error: ") and message.count("error: ") == 1, message
    assert "Traceback" not in message
    for expected in case.expect:
        assert expected in message
    assert not list(Path("out").rglob("record.json")) and not Path("out/plan.json").exists()


@pytest.mark.parametrize(("case", "command"), QUICK)
def test_is_refused_with_one_clear_message(
    case: Case, command: str, arrange: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = arrange(case, command)
    main = analysis_cli.main if command == "collect" else cli.main
    returncode = main(arguments)
    printed = capsys.readouterr()
    check(case, returncode, printed.err)
    assert printed.out == ""


@pytest.mark.slow
@pytest.mark.parametrize(("case", "command"), PIPELINE)
def test_snakemake_passes_the_message_and_the_exit_code_on(
    case: Case, command: str, arrange: Any, tmp_path: Path
) -> None:
    message_of_profile = "Using workflow specific profile"
    arguments = arrange(case, command)
    files = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    done = started("snakemake", *files, *arguments)
    lines = done.stderr.splitlines(keepends=True)
    own = "".join(line for line in lines if not line.startswith(message_of_profile))
    check(case, done.returncode, own)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "module"), [("jsonl-broken-line", "lomo"), ("record-cut-in-half", "lomo_analysis")]
)
def test_a_process_ends_with_the_message_and_the_exit_code(
    name: str, module: str, arrange: Any
) -> None:
    command = {"lomo": "train", "lomo_analysis": "collect"}[module]
    done = started(module, *arrange(CASES[name], command))
    check(CASES[name], done.returncode, done.stderr)


def started(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_study_that_the_cases_change_is_good(arrange: Any) -> None:
    arrange(Case(expect=[]), "plan")
    assert make_plan(load_study(Path("study.yaml")), source="study.yaml").runs


def test_every_case_expects_the_place_first() -> None:
    assert len(CASES) >= 24
    for name, case in CASES.items():
        assert ": " in case.expect[0], name
