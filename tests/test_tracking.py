"""W&B: each record becomes a run with group, job type, config, history and summary; offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import wandb

from lomo.clock import Clock
from lomo.config import Study
from lomo.plan import make_plan
from lomo.run import execute
from lomo.specs import TrainSpec
from lomo.tracking import History
from lomo.wandb_runs import publish


class FakeRun:
    """Takes what a W&B run would be told."""

    def __init__(self, **told: Any) -> None:
        self.told, self.logged, self.summary, self.exit_code = told, [], {}, None

    def log(self, numbers: dict[str, Any], step: int) -> None:
        self.logged.append((step, numbers))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    runs: list[FakeRun] = []

    def init(**told: Any) -> FakeRun:
        runs.append(FakeRun(**told))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", init)
    return runs


@pytest.fixture
def spec(study_dict: dict[str, Any]) -> TrainSpec:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    found = next(s for s in plan.runs.values() if s.method == "lomo" and s.kind == "train")
    assert isinstance(found, TrainSpec)
    return found


def test_a_record_becomes_an_offline_run(
    spec: TrainSpec, started: list[FakeRun], tmp_path: Path
) -> None:
    record = execute(spec, tmp_path / "runs" / spec.run_id, Clock())
    assert not started, "nothing is started while it runs"
    listed = publish(tmp_path, [spec.run_id, "train/of/a/run/not/done"])
    assert json.loads(listed.read_text()) == [spec.run_id]
    (run,) = started
    assert run.told["mode"] == "offline"
    assert (run.told["group"], run.told["job_type"]) == (spec.study, "train")
    assert run.told["config"] == spec.model_dump()
    steps = [numbers for _, numbers in run.logged if "step/loss" in numbers]
    assert record.training is not None and record.result is not None
    assert len(steps) == record.training.num_steps
    assert any("dev/value" in numbers for _, numbers in run.logged)
    assert run.summary["accuracy"] == record.result.value
    assert run.exit_code == 0


def test_online_a_run_is_told_as_it_works(
    spec: TrainSpec, started: list[FakeRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOMO_WANDB", "online")
    execute(spec, tmp_path, Clock())
    (run,) = started
    assert run.told["mode"] == "online" and run.exit_code == 0 and run.summary["status"] == "ok"


def test_a_run_without_a_record_ends_as_failed(
    spec: TrainSpec, started: list[FakeRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOMO_WANDB", "online")
    history = History(spec.study, spec.run_id, spec.model_dump(), tmp_path)
    history.add("step", step=1, loss=2.0)
    history.add("step", step=3, loss=float("nan"))
    history.add("evaluation", step=2, split="test", value=0.5)
    history.close(None)
    (run,) = started
    assert run.logged[0] == (1, {"step/loss": 2.0, "step/of_step": 1})
    # W&B drops what goes back in steps: the kept epoch's score comes with the latest.
    assert run.logged[2] == (3, {"test/value": 0.5, "test/of_step": 2})
    assert run.exit_code == 1
    lines = (tmp_path / "history.jsonl").read_text()
    assert "NaN" not in lines and '"loss": null' in lines
