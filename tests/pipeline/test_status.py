"""How a study stands, read from a folder that is made up for it; and its one line of progress."""

from __future__ import annotations

import io
import json
import logging
import os
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest

from lomo.cli import main
from lomo.pipeline import snakefile
from lomo.pipeline.snakefile import Progress, line_of
from lomo.pipeline.status import Study, as_text
from lomo.study.config import Study as StudyConfig
from lomo.study.plan import Plan, make_plan
from lomo.system.command import CLEAR, SILENT
from lomo.system.files import hold, is_held

STUDY = {
    "study": "made-up",
    "title": "runs that nobody did",
    "data": "generated",
    "device": "cpu",
    "protocol": "paper",  # one seed
    "superglue": {
        "models": ["tiny-s"],
        "methods": ["sgd", "lomo"],
        "tasks": ["rte", "wic"],
        "settings": {
            "epochs": 1,
            "batch_size": 8,
            "num_train": 8,
            "num_dev": 4,
            "num_test": 4,
            "max_length": 64,
        },
    },
}


@pytest.fixture
def plan() -> Plan:
    return make_plan(StudyConfig.model_validate(STUDY), source="made up")


@pytest.fixture
def results(tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own results folder, begun: its plan and 10 s told for each run."""
    monkeypatch.setenv(SILENT, "")  # drawn progress sets it for the jobs of its process
    folder = tmp_path / "results" / "made-up"
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(plan.model_dump_json())
    told = {run_id: {"seconds": 10.0, "fit": "fits"} for run_id in plan.runs}
    (folder / "estimates.json").write_text(json.dumps({"runs": told}))
    return folder


def record(results: Path, plan: Plan, run_id: str, *, wall_s: float, **changed: object) -> None:
    """A record with what is read of it."""
    spec = plan.runs[run_id].model_dump(mode="json") | changed
    path = results / "runs" / run_id / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"status": "ok", "spec": spec, "clock": {"wall_s": wall_s}}))


def test_runs_are_counted_and_the_time_left_told_at_their_pace(results: Path, plan: Plan) -> None:
    first, second, *_ = plan.runs
    record(results, plan, first, wall_s=15.0)
    record(results, plan, second, wall_s=25.0)
    status = Study(results, plan).look()
    assert (status.num_ended, status.num_runs, dict(status.ended)) == (2, 4, {"ok": 2})
    # Told 10 s each, they took 20: so will the two that are left.
    assert status.seconds_left == pytest.approx(2 * 20.0)
    assert not status.working and status.page is None


def test_base_models_are_counted_and_their_time_is_told(results: Path, plan: Plan) -> None:
    assert plan.bases() == {"results/made-up/models/tiny-s/s42": ("tiny-s", 42)}
    estimates = json.loads((results / "estimates.json").read_text())
    bases = dict.fromkeys(plan.bases(), 100.0)
    (results / "estimates.json").write_text(json.dumps(estimates | {"bases": bases}))
    before = Study(results, plan).look()
    assert (before.num_bases, before.num_bases_made, before.seconds_left) == (1, 0, 140.0)
    assert "0 of 1 base models made" in as_text(before)
    weights = results / "models" / "tiny-s" / "s42" / "model.safetensors"
    log = results / "logs" / "pretrain-tiny-s-s42.log"
    log.parent.mkdir()
    log.write_text("error: no text\n")
    assert [job.job for job in Study(results, plan).look().failed] == ["pretrain-tiny-s-s42"]
    weights.parent.mkdir(parents=True)
    weights.touch()
    after = Study(results, plan).look()
    assert (after.num_bases_made, after.seconds_left, list(after.failed)) == (1, 40.0, [])


def test_without_a_run_done_the_estimates_themselves_are_told(results: Path, plan: Plan) -> None:
    assert Study(results, plan).look().seconds_left == pytest.approx(40.0)
    told = {run_id: {"seconds": 10.0, "fit": "does not fit"} for run_id in plan.runs}
    (results / "estimates.json").write_text(json.dumps({"runs": told}))
    assert Study(results, plan).look().seconds_left == 0.0, "what is not launched takes no time"


def test_while_a_pipeline_works_its_own_pace_counts(results: Path, plan: Plan) -> None:
    first = next(iter(plan.runs))
    lock = hold(results / ".lock")
    began = time.time() - 60
    os.utime(results / ".lock", (began, began))
    record(results, plan, first, wall_s=15.0)
    status = Study(results, plan).look()
    lock.close()
    assert status.working
    # 60 s have brought 10 of 40 told seconds; three times as much is left.
    assert status.seconds_left == pytest.approx(180.0, abs=5)


def test_nothing_is_guessed_where_nothing_was_told(results: Path, plan: Plan) -> None:
    (results / "estimates.json").unlink()
    status = Study(results, plan).look()
    assert status.seconds_left is None and status.why_unknown == "no plan has been made yet"


def test_a_record_of_another_plan_is_not_counted(results: Path, plan: Plan) -> None:
    first = next(iter(plan.runs))
    record(results, plan, first, wall_s=1.0, seed=43)
    status = Study(results, plan).look()
    assert (status.num_ended, status.other_plan) == (0, 1)
    assert "1 of another plan" in as_text(status)


def test_a_cut_record_is_no_record(results: Path, plan: Plan) -> None:
    first = next(iter(plan.runs))
    record(results, plan, first, wall_s=1.0)
    path = results / "runs" / first / "record.json"
    path.write_text(path.read_text()[:40])
    assert Study(results, plan).look().num_ended == 0


def test_a_record_that_is_written_or_removed_later_is_seen(results: Path, plan: Plan) -> None:
    first = next(iter(plan.runs))
    study = Study(results, plan)
    assert study.look().num_ended == 0
    record(results, plan, first, wall_s=1.0)
    assert study.look().num_ended == 1
    (results / "runs" / first / "record.json").unlink()
    assert study.look().num_ended == 0


def test_what_runs_and_what_failed_is_told_apart(results: Path, plan: Plan) -> None:
    running, failed, *_ = plan.runs
    for run_id in (running, failed):
        log = results / "logs" / f"{run_id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Traceback\nValueError: of a test\n\n")
    held = hold(results / "runs" / running / ".lock")
    (results / "logs" / "tables.log").write_text("error: no room\n")
    status = Study(results, plan).look()
    held.close()
    assert [run.run_id for run in status.running] == [running]
    assert [job.job for job in status.failed] == [failed, "tables"]
    assert status.failed[0].why == "ValueError: of a test"
    assert not is_held(results / "runs" / running / ".lock")
    text = as_text(status)
    assert f"running  {running}" in text and "error: no room" in text


def test_the_command_takes_a_name_a_folder_and_tells_json(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(results.parent.parent)
    for asked in ("made-up", "results/made-up"):
        assert main(["status", asked]) == 0
        assert "0 of 4 ended" in capsys.readouterr().out
    assert main(["status", "made-up", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seconds_left"] == 40.0
    assert main(["status", "made-down"]) == 2
    assert "allowed: results/made-up" in capsys.readouterr().err


def test_a_line_of_progress_never_breaks(results: Path, plan: Plan) -> None:
    record(results, plan, next(iter(plan.runs)), wall_s=10.0)
    status = Study(results, plan).look()
    line = line_of(status, 100)
    assert line.startswith("made-up [#####...............]  1 of 4 runs  about 30 s left")
    assert all(len(line_of(status, width)) < width for width in range(30, 120))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_one_line_is_drawn_anew_and_removed(results: Path, plan: Plan) -> None:
    logger = logging.getLogger("snakemake.logging")
    heard = io.StringIO()
    handler = logging.StreamHandler(heard)
    logger.addHandler(handler)
    try:
        terminal = Terminal()
        progress = Progress(results, plan, terminal)
        assert os.environ[SILENT] == "1", "jobs say nothing of their own"
        progress.start()
        deadline = time.monotonic() + 20
        while "0 of 4 runs" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
        logger.warning("Execute 2 jobs...")
        for event in ("progress", "job_finished"):
            told = types.SimpleNamespace(value=event)
            logger.warning("2 of 4 steps (50%%) done", extra={"event": told})
        logger.warning("Error in rule train")
        progress.stop()
    finally:
        logger.removeHandler(handler)
    assert "0 of 4 runs" in terminal.getvalue() and "\n" not in terminal.getvalue()
    assert terminal.getvalue().endswith(CLEAR)
    assert heard.getvalue() == "Error in rule train\n"


def test_a_failed_log_is_told_whole_unless_it_is_endless(tmp_path: Path) -> None:
    short, long, old = (tmp_path / name for name in ("short.log", "long.log", "old.log"))
    short.write_text("\n".join(f"line {n}" for n in range(100)))
    long.write_text("\n".join(f"line {n}" for n in range(1000)))
    old.write_text("of another time")
    os.utime(old, (1, 1))
    told = snakefile.failed_logs([short, long, old], since=time.time() - 60)
    assert "line 0\n" in told and "less its first 600 lines" in told and "line 599\n" not in told
    assert "another time" not in told


@pytest.fixture
def with_suites(results: Path) -> Plan:
    """The plan with the miniature suite, scored for two base models."""
    more = {"protocol": "sound", "superglue": None, "suites": SUITES}
    study = StudyConfig.model_validate({**STUDY, **more})
    plan = make_plan(study, source="made up")
    (results / "plan.json").write_text(plan.model_dump_json())
    return plan


SUITES = {"models": ["tiny-s"], "data": "generated", "tasks": {"miniature": {}}}


def test_the_line_of_progress_says_what_its_time_leaves_out(results: Path, plan: Plan) -> None:
    some = Study(results, plan).look()
    assert some.num_ended < some.num_runs
    assert "left" not in line_of(replace(some, seconds_left=0.0, num_untimed=3), 200)
    told = line_of(replace(some, seconds_left=240.0, num_untimed=12), 200)
    assert "about 4 min left without 12 scores of suites" in told
    assert "scores" not in line_of(replace(some, seconds_left=240.0, num_untimed=0), 200)


def test_suites_are_runs_too(results: Path, with_suites: Plan) -> None:
    plan = with_suites
    assert not plan.runs and len(plan.suites) == 3
    first, second, _ = plan.suites
    status = Study(results, plan).look()
    assert (status.num_runs, status.num_ended, status.num_untimed) == (3, 0, 3)
    assert "not known: 3 scores of suites, of which none is there yet" in as_text(status)
    path = results / "runs" / first / "record.json"
    path.parent.mkdir(parents=True)
    spec = plan.suites[first].model_dump(mode="json")
    path.write_text(json.dumps({"status": "ok", "spec": spec, "clock": {"wall_s": 7.0}}))
    status = Study(results, plan).look()
    # What it took on one model it will take on the two others.
    assert (status.num_ended, status.num_untimed, status.seconds_left) == (1, 0, 14.0)
    assert "suites" not in as_text(status)
    log = results / "logs" / f"{second}.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: of a suite\n")
    assert [job.why for job in Study(results, plan).look().failed] == ["error: of a suite"]
