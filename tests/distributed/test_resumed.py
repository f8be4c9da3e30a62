"""A run over two ranks that is killed, or asked to end, goes on bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lomo.record.belief import doubts
from lomo.record.schema import Record, read_record
from lomo.specs import TrainSpec
from lomo.study.config import Study
from lomo.study.plan import make_plan
from tests.distributed import saved
from tests.distributed.launched import launched

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 400
TIMED = {"clock", "provenance", "throughput", "missing", "resumed_at_steps", "checkpoints_refused"}

pytestmark = pytest.mark.slow

# Each rank keeps its part of the last weights, and saves at each safe point. The kind of kill that
# is asked for happens in rank 1 at the step that KILL_AT names. Its launcher killed, it waits for
# its own end: on a busy machine that takes longer than the steps that are left.
PATCH = """
import os, signal, time
if "RANK" in os.environ:
    from pathlib import Path
    from safetensors.torch import save_file
    from lomo.run import loop
    from lomo.run.resume.checkpoints import Checkpoints
    Checkpoints.is_due = property(lambda self: True)
    real_report, real_step, taken = loop.TrainingLoop.report, loop.training_step, []
    def report(self):
        parts = self.engine.own_parts(self.training.model)
        to = Path(os.environ["WEIGHTS_TO"])
        save_file({n: p.contiguous() for n, p in parts.items()}, to / f"{self.engine.rank}.weights")
        real_report(self)
    def step(*arguments, **options):
        taken.append(1)
        if len(taken) == int(os.environ.get("KILL_AT", "0")):
            if os.environ["RANK"] == "1":
                os.kill(os.getppid(), int(os.environ["KILL_WITH"]))
                time.sleep(60 if os.environ["KILL_WITH"] == "9" else 0)
        return real_step(*arguments, **options)
    loop.TrainingLoop.report, loop.training_step = report, step
"""


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    folder = tmp_path / "patch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(PATCH)
    return folder


def spec_of(study: dict[str, Any], method: str, engine: str, **changes: Any) -> TrainSpec:
    """Three steps an epoch, the last of one row: rank 1 has none of its own."""
    settings = {**study["superglue"]["settings"], "engine": engine, "num_devices": 2}
    settings |= {"num_train": 9, "batch_size": 4, "epochs": 2, "num_dev": 4, "num_test": 4}
    study["superglue"] |= {"settings": settings, "methods": [method]}
    del study["memory"]
    plan = make_plan(Study.model_validate(study), source="unit.yaml")
    spec, *_ = plan.runs.values()
    assert isinstance(spec, TrainSpec)
    return spec.model_copy(update=changes)


def start(spec: TrainSpec, folder: Path, patch: Path, **variables: str) -> tuple[int, str]:
    """Exit code of a start of the run, and what it said on stderr."""
    folder.mkdir(exist_ok=True)
    given = {"PYTHONPATH": f"{patch}:{ROOT}", "WEIGHTS_TO": str(folder), **variables}
    arguments = ["train", "--spec", spec.model_dump_json(), "--out", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "lomo", *arguments],
        cwd=ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done.returncode, done.stderr


def finish(spec: TrainSpec, folder: Path, patch: Path) -> Record:
    code, told = start(spec, folder, patch)
    assert code == 0, told
    record = read_record(folder / "record.json")
    assert doubts(record, spec, folder) == []
    assert not (folder / "checkpoints").exists()
    return record


def assert_same(folder: Path, other: Path) -> None:
    for rank in range(2):
        ours, theirs = (load_file(at / f"{rank}.weights") for at in (folder, other))
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for name in ("history.jsonl", "samples.jsonl"):
        ours_, theirs_ = (lines_of(at / name) for at in (folder, other))
        assert ours_ == theirs_
    records = [json.loads((at / "record.json").read_text()) for at in (folder, other)]
    first, second = ({k: v for k, v in r.items() if k not in TIMED} for r in records)
    assert first == second


def lines_of(path: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, path.read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "step_s"} for line in lines]


def nobody_works_on(folder: Path) -> None:
    """Waits until the ranks of a killed launcher are gone."""
    deadline = time.monotonic() + 30
    while any(str(folder) in " ".join(p.info["cmdline"] or ()) for p in processes()):
        assert time.monotonic() < deadline, "ranks outlive the process that has started them"
        time.sleep(0.1)


def processes() -> list[psutil.Process]:
    return list(psutil.process_iter(["cmdline"]))


@pytest.fixture(scope="module", params=["fsdp2", "zero3"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the trainings of saved.py gave on each rank of an engine; started once."""
    folder = tmp_path_factory.mktemp(request.param)
    return launched("tests.distributed.saved", request.param, folder, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("name", saved.CASES)
def test_what_was_saved_goes_on_bit_for_bit(ranks: Any, name: str) -> None:
    """Three of three kills, for every method that the engine runs."""
    if name not in ranks[0]:
        pytest.skip("the engine does not run it")
    for facts in (rank[name] for rank in ranks):
        assert "error" not in facts, facts["error"]
        whole = facts.pop("whole")
        assert len(facts) == len(saved.STOPS) == 3
        for stop, parts in facts.items():
            different = [name for name in whole if not torch.equal(whole[name], parts[name])]
            assert different == [], f"killed after step {stop}"


@pytest.mark.parametrize(("engine", "method"), [("fsdp2", "lora_lomo"), ("zero3", "adamw")])
def test_a_run_whose_launcher_is_killed_or_asked_to_end_goes_on(
    study_dict: dict[str, Any], tmp_path: Path, patch: Path, engine: str, method: str
) -> None:
    """The launcher dies, and its ranks with it; the next one is asked to end, and they save."""
    spec = spec_of(study_dict, method, engine)
    finish(spec, tmp_path / "whole", patch)
    folder = tmp_path / "disturbed"
    step = random.Random(f"{engine} {method}").randint(2, 4)
    code, _ = start(spec, folder, patch, KILL_AT=str(step), KILL_WITH="9")
    assert code == -signal.SIGKILL
    nobody_works_on(folder)
    code, told = start(spec, folder, patch, KILL_AT="2", KILL_WITH="15")
    assert code == 128 + signal.SIGTERM
    assert "ended by SIGTERM after step" in told and "Traceback" not in told
    record = finish(spec, folder, patch)
    first, second = record.resumed_at_steps
    assert first in (step - 1, step - 2) and first < second <= first + 3
    assert_same(folder, tmp_path / "whole")
