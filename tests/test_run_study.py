"""The measured runs of a study without Snakemake: what is missing, within the time."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks import run_study
from lomo.model.registry import RANDOM_WEIGHTS, registry
from lomo.specs import MeasureSpec

STUDY = """
study: mini
title: a study for a test
data: generated
device: cpu
weights: random
throughput:
  models: [tiny-s]
  methods: [lomo, sgd]
  batch_size: [1, 2]
  sequence_length: 32
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    registry()  # read before the folder changes
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.yaml").write_text(STUDY)
    return "mini.yaml"


class Process:
    """Stands for a process that stands by: notes the run that it is given, and ends as told."""

    def __init__(self, runs: Runs) -> None:
        self.runs, self.stdin, self.code = runs, self, 0
        self.line = ""

    def write(self, line: str) -> None:
        self.line = line

    def close(self) -> None:
        arguments = json.loads(self.line)
        spec = MeasureSpec.model_validate_json(arguments[arguments.index("--spec") + 1])
        assert arguments[0] == "measure"
        assert arguments[arguments.index("--out") + 1] == f"results/mini/runs/{spec.run_id}"
        self.runs.begun.append(spec.run_id)
        self.code = self.runs.endings.pop(0) if self.runs.endings else 0

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.runs.killed += 1

    def communicate(self) -> None:
        self.runs.ended += 1


class Runs:
    """Stands for the processes. An ending of None: it does not end."""

    def __init__(self, *endings: int | None) -> None:
        self.endings = list(endings)
        self.begun: list[str] = []
        self.made = self.killed = self.ended = 0

    def __call__(self, command: list[str], **_: Any) -> Any:
        self.made += 1
        return Process(self)


def run_all(study: str, monkeypatch: pytest.MonkeyPatch, runs: Runs, **options: Any) -> int:
    monkeypatch.setattr(subprocess, "Popen", runs)
    monkeypatch.setattr(run_study, "_LOOK_EVERY_S", 0.0)
    plan = run_study.prepare(study)
    return run_study.run_all(plan, **{"seconds": 600.0, **options})


def test_plan_and_models_are_where_the_pipeline_has_them(study: str) -> None:
    plan = run_study.prepare(study)
    assert json.loads(Path("results/mini/plan.json").read_text())["source"] == "mini.yaml"
    config = json.loads(Path("results/mini/models/tiny-s/config.json").read_text())
    assert config[RANDOM_WEIGHTS] == 0 and config["hidden_size"] == 64
    assert len(plan.runs) == 4


def test_only_what_has_no_record_is_run(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def there(spec: MeasureSpec, folder: Path) -> bool | None:
        return True if spec.method == "lomo" else None

    monkeypatch.setattr(run_study, "finished", there)
    runs = Runs()
    assert run_all(study, monkeypatch, runs) == 0
    assert [run.split("/")[2] for run in runs.begun] == ["sgd", "sgd"]


def test_a_text_picks_runs(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    assert run_all(study, monkeypatch, runs, only=["lomo/32x2"]) == 0
    assert runs.begun == ["measure/tiny-s/lomo/32x2-bfloat16-checkpointed"]


def test_what_it_does_not_run_is_said(
    study: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Runs())
    plan = run_study.prepare(study).model_copy(update={"suites": {"one": None, "two": None}})
    assert run_study.run_all(plan, seconds=600.0) == 0
    assert "2 runs of `instruct` and `suites` are left to the pipeline" in capsys.readouterr().out


def test_none_is_begun_without_the_time(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    assert run_all(study, monkeypatch, runs, seconds=29.0) == 4
    assert runs.begun == []


def test_a_run_that_failed_is_left(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(1, 0)
    assert run_all(study, monkeypatch, runs) == 1
    assert len(runs.begun) == runs.made == 4


def test_a_run_that_does_not_end_is_cut(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run_study.SHORTEST_S, MeasureSpec, 0.0)
    runs = Runs(0, None)
    assert run_all(study, monkeypatch, runs, seconds=0.2) == 3
    assert len(runs.begun) == 2 and runs.killed == 1
    assert runs.ended == runs.made - 1, "what stands by and what was cut is waited for"


@pytest.mark.slow
def test_a_run_is_a_process_of_its_own_with_its_record(study: str) -> None:
    plan = run_study.prepare(study)
    assert run_study.run_all(plan, seconds=600.0, only=["sgd/32x1", "lomo/32x2"]) == 0
    records = sorted(Path("results/mini/runs").rglob("record.json"))
    read = [json.loads(path.read_text()) for path in records]
    assert [record["spec"]["method"] for record in read] == ["lomo", "sgd"]
    # Its clock starts with it, and not while it stands by and the one before it runs.
    begun = [datetime.fromisoformat(record["provenance"]["started_at"]) for record in read]
    assert (begun[0] - begun[1]).total_seconds() >= read[1]["clock"]["wall_s"] - 0.1
