"""W&B: each record becomes a run with group, job type, config, history and summary; offline."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from lomo.errors import UserError
from lomo.record import tracking
from lomo.record.clock import Clock
from lomo.record.provenance import read_provenance
from lomo.record.remote.naming import key_of, wandb_id
from lomo.record.schema import Evidence, Record, write_record
from lomo.record.suite import Score, SuiteRecord
from lomo.record.tracking import History, publish
from lomo.run.execute import as_record, execute
from lomo.specs import TrainSpec
from lomo.study.config import Study
from lomo.study.plan import make_plan

ROOT = Path(__file__).parents[2]


class FakeRun:
    """Takes what a W&B run would be told, and leaves its folder."""

    def __init__(self, **told: Any) -> None:
        self.told, self.logged, self.summary, self.exit_code = told, [], {}, None
        if told["mode"] == "offline":
            self.folder = told["dir"] / "wandb" / f"offline-run-20261125_101112-{told['id']}"
            self.folder.mkdir()

    def log(self, numbers: dict[str, Any], step: int) -> None:
        self.logged.append((step, numbers))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code
        if self.told["mode"] == "offline":
            ending = wandb_internal_pb2.Record(exit={"exit_code": exit_code}).SerializeToString()
            chunk = struct.pack("<IHB", 0, len(ending), 1) + ending
            (self.folder / "run.wandb").write_bytes(b":W&B\xe1\xbe\x00" + chunk)


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
    config = run.told["config"]
    assert config.pop("names") == {"method": "LOMO", "task": "RTE"}
    # All of the spec, but of its two folders the name alone: where they lie is nobody's business.
    folders = {key: Path(getattr(spec, key)).name for key in ("model_path", "data_path")}
    assert config == spec.model_dump() | folders
    steps = [numbers for _, numbers in run.logged if "step/loss" in numbers]
    assert record.training is not None and record.result is not None
    assert len(steps) == record.training.num_steps
    assert any("dev/value" in numbers for _, numbers in run.logged)
    assert run.summary["accuracy"] == record.result.value
    assert run.summary[key_of("accuracy", spec.model, "rte")] == record.result.value
    assert "tokens_per_s_per_device" not in run.summary, "that of Table 2 is a measured run's"
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


def test_instructions_are_told_apart_from_tasks(
    spec: TrainSpec, started: list[FakeRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A panel of losses, or of `test`, would take the mean of both."""
    monkeypatch.setenv("LOMO_WANDB", "online")
    history = History(spec.study, "instruct/tiny-s/lomo/s42/t0", spec.model_dump(), tmp_path)
    history.add("step", step=1, loss=2.0)
    history.add("evaluation", step=1, split="test", value=7.5)
    history.close(None)
    (run,) = started
    assert run.told["job_type"] == "instruct"
    assert run.logged[0] == (1, {"instruct/step/loss": 2.0, "instruct/step/of_step": 1})
    assert run.logged[1] == (1, {"instruct/test/value": 7.5, "instruct/test/of_step": 1})


def test_a_score_of_a_suite_becomes_a_run_without_a_history(
    started: list[FakeRun], tmp_path: Path
) -> None:
    run_id = "suite/tiny-s/base/miniature/s42"
    score = Score.model_construct(
        metric="acc", scoring="by text", num_examples=24, stderr=0.1, value=0.625
    )
    record = SuiteRecord.model_construct(
        study="unit",
        run_id=run_id,
        status="ok",
        spec={"model": "tiny-s", "method": "base", "task": "miniature", "data_path": "/a/place"},
        clock=Clock().read(),
        score=score,
    )
    (tmp_path / "wandb").mkdir()
    run = tracking.WandbRun(record.study, run_id, record.spec, tmp_path, "offline")
    run.finish(record)
    (told,) = started
    assert told.told["job_type"] == "suite"
    assert told.told["config"]["names"] == {"method": "base", "task": "miniature"}
    assert told.told["config"]["data_path"] == "place"
    assert told.summary["suite_score"] == told.summary["suite_score/tiny-s/miniature"] == 0.625
    assert told.summary["metric"] == "acc" and told.exit_code == 0 and not told.logged


@pytest.fixture
def finished(tmp_path: Path, spec: TrainSpec) -> list[str]:
    """Two records of a study, without having trained; their run ids."""
    made = failed_record(spec)
    for run_id in ("train/m/lomo/rte/s42/t0", "train/m/sgd/rte/s42/t0"):
        write_record(
            tmp_path / "runs" / run_id / "record.json", made.model_copy(update={"run_id": run_id})
        )
    return ["train/m/lomo/rte/s42/t0", "train/m/sgd/rte/s42/t0"]


def failed_record(spec: TrainSpec) -> Record:
    evidence = Evidence(
        message="it is too large",
        step=1,
        peak_before_bytes=None,
        missing={"peak_before_bytes": "-"},
    )
    return as_record(spec, "oom", evidence, read_provenance(spec, "cpu"), Clock())


def test_what_was_published_is_not_written_again(
    finished: list[str], started: list[FakeRun], tmp_path: Path
) -> None:
    first, second = finished
    publish(tmp_path, [first])
    publish(tmp_path, [first, second])  # as after a method more
    assert [run.told["name"] for run in started] == [first, second]
    (tmp_path / "wandb" / "published.json").unlink()  # as Snakemake does before the job
    publish(tmp_path, [first, second])
    assert len(started) == 2
    # The run done again is another record: it gets an id of its own, and the old one goes.
    path = tmp_path / "runs" / first / "record.json"
    path.write_text(path.read_text().replace("too large", "much too large"))
    publish(tmp_path, [first, second])
    assert len(started) == 3
    ids = [run.told["id"] for run in started]
    assert len(set(ids)) == 3
    there = {folder.name.split("-", 3)[-1] for folder in (tmp_path / "wandb").glob("offline-*")}
    assert there == set(ids[1:])


def test_a_run_that_was_cut_short_is_written_again(
    finished: list[str], started: list[FakeRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeRun, "finish", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match="records are whole") as refused:
        publish(tmp_path, finished[:1])
    assert "wandb=off" in str(refused.value)
    monkeypatch.undo()
    monkeypatch.setattr(
        wandb, "init", lambda **told: started.append(FakeRun(**told)) or started[-1]
    )
    publish(tmp_path, finished)
    assert [run.told["name"] for run in started[1:]] == finished


@pytest.mark.parametrize("left", [0, 7, 12, None])
def test_a_file_that_the_disk_did_not_take_whole_is_told(
    finished: list[str],
    started: list[FakeRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left: int | None,
) -> None:
    """W&B's own process writes it, and says nothing of a full disk."""
    finish = FakeRun.finish

    def cut(self: FakeRun, exit_code: int) -> None:
        finish(self, exit_code)
        file = self.folder / "run.wandb"
        file.unlink() if left is None else file.write_bytes(file.read_bytes()[:left])

    monkeypatch.setattr(FakeRun, "finish", cut)
    monkeypatch.setattr(tracking, "PATIENCE_S", 0.1)
    with pytest.raises(UserError, match="has not written .* to its end"):
        publish(tmp_path, finished[:1])
    assert not (tmp_path / "wandb" / "written.json").exists()
    monkeypatch.setattr(FakeRun, "finish", finish)
    publish(tmp_path, finished[:1])
    assert len(started) == 2


def test_what_is_written_a_moment_later_is_waited_for(
    finished: list[str],
    started: list[FakeRun],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = FakeRun.finish

    def late(self: FakeRun, exit_code: int) -> None:
        threading.Timer(0.2, finish, (self, exit_code)).start()

    monkeypatch.setattr(FakeRun, "finish", late)
    assert publish(tmp_path, finished[:1]).is_file()
    assert len(started) == 1


@pytest.mark.parametrize("name", ["qwen:0.5b", "bob's llama", "a;b,c#d?e/f", "モデル", "x" * 250])
def test_what_wandb_refuses_in_a_name_is_replaced(name: str) -> None:
    found = wandb_id("s", f"train/{name}/lomo", "of a record")
    settings = wandb.Settings(run_id=found)
    assert settings.run_id == found and 0 < len(found) <= 128
    # Names that differ only in what is replaced stay two.
    assert found != wandb_id("s", f"train/{name.replace(name[1], '-')}/lomo", "of a record")
    assert wandb_id("s", f"train/{name}/lomo") != wandb_id("s", "train/-----/lomo")


def test_a_plain_name_stays_as_it_is() -> None:
    assert wandb_id("tiny", "train/tiny-s/lomo") == "tiny-train-tiny-s-lomo"


HOSTILE = {
    "WANDB_PROJECT": "team/lomo:1",
    "WANDB_API_KEY": "x" * 40 + "\n",
    "WANDB_BASE_URL": "wandb.local",
    "WANDB_MODE": "disabled",
    "WANDB_DIR": "/proc/nowhere",
    "WANDB_TAGS": f"a,,{'long' * 30}",
    "WANDB_RUN_ID": "a/b",
    "HOME": "/proc/nowhere",
    "XDG_CONFIG_HOME": "/proc/nowhere",
    "XDG_CACHE_HOME": "/proc/nowhere",
}


@pytest.mark.slow
def test_offline_needs_no_key_no_server_and_no_home(finished: list[str], tmp_path: Path) -> None:
    run_id = "train/bob's qwen:0.5b/lomo/rte/s42/t0"
    (tmp_path / "runs" / finished[0]).rename(tmp_path / "moved")
    (tmp_path / "runs" / run_id).parent.mkdir(parents=True)
    (tmp_path / "moved").rename(tmp_path / "runs" / run_id)
    (tmp_path / "runs" / run_id / "history.jsonl").write_text(
        '{"event": "step", "step": 1, "loss": 2.0}\n'
    )
    code = (
        "import pathlib; from lomo.record.tracking import publish;"
        f"publish(pathlib.Path({str(tmp_path)!r}), [{run_id!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **HOSTILE, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "'team-lomo-1' is written" in done.stderr
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (written,) = folder.glob("run-*.wandb")
    assert written.stat().st_size > 0


def test_a_history_begins_with_that_of_an_earlier_process(
    tmp_path: Path, started: list[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B has been told of those lines, and refuses steps that go back."""
    monkeypatch.setenv("LOMO_WANDB", "online")
    first = History("study", "run", {}, tmp_path)
    for step in (1, 2, 3):
        first.add("step", step=step, loss=0.5)
    kept = "".join(first.text().splitlines(keepends=True)[:2])
    first.close(None)
    second = History("study", "run", {}, tmp_path)
    second.begin_with(kept)
    second.add("evaluation", split="dev", step=1, value=0.5)
    second.add("step", step=3, loss=0.5)
    lines = [json.loads(line) for line in second.text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 1, 3]
    assert started[1].told["resume"] == "allow"
    assert [step for step, _ in started[1].logged] == [2, 3]
    second.close(None)
