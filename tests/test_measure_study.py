"""The measured runs of a study without Snakemake: what is missing, within the time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import measure_study
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


class Runs:
    """Stands for the processes: notes each run, and has it end as told."""

    def __init__(self, *endings: int | None) -> None:
        self.endings = list(endings)
        self.begun: list[str] = []

    def __call__(self, command: list[str], *, timeout: float, check: bool) -> Any:
        spec = MeasureSpec.model_validate_json(command[command.index("--spec") + 1])
        assert command[command.index("--out") + 1] == f"results/mini/runs/{spec.run_id}"
        self.begun.append(spec.run_id)
        ending = self.endings.pop(0) if self.endings else 0
        if ending is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, ending)


def run_all(study: str, monkeypatch: pytest.MonkeyPatch, runs: Runs, **options: Any) -> int:
    monkeypatch.setattr(subprocess, "run", runs)
    plan = measure_study.prepare(study)
    return measure_study.run_all(plan, **{"seconds": 600.0, **options})


def test_plan_and_models_are_where_the_pipeline_has_them(study: str) -> None:
    plan = measure_study.prepare(study)
    assert json.loads(Path("results/mini/plan.json").read_text())["source"] == "mini.yaml"
    config = json.loads(Path("results/mini/models/tiny-s/config.json").read_text())
    assert config[RANDOM_WEIGHTS] == 0 and config["hidden_size"] == 64
    assert len(plan.runs) == 4


def test_only_what_has_no_record_is_run(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def there(spec: MeasureSpec, folder: Path) -> bool | None:
        return True if spec.method == "lomo" else None

    monkeypatch.setattr(measure_study, "finished", there)
    runs = Runs()
    assert run_all(study, monkeypatch, runs) == 0
    assert [run.split("/")[2] for run in runs.begun] == ["sgd", "sgd"]


def test_a_text_picks_runs(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    assert run_all(study, monkeypatch, runs, only="lomo/32x2") == 0
    assert runs.begun == ["measure/tiny-s/lomo/32x2-bfloat16-checkpointed"]


def test_none_is_begun_without_the_time(study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs()
    assert run_all(study, monkeypatch, runs, seconds=59.0) == 4
    assert runs.begun == []


@pytest.mark.parametrize(("endings", "num_begun", "left"), [((0, None), 2, 3), ((1, 0), 4, 1)])
def test_a_run_that_was_cut_or_failed_is_left(
    endings: tuple[int | None, ...],
    num_begun: int,
    left: int,
    study: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = Runs(*endings)
    assert run_all(study, monkeypatch, runs) == left
    assert len(runs.begun) == num_begun
