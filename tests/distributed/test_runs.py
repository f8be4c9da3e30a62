"""A run over two ranks, from its command to its record, and what becomes of ranks that fail."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from lomo.model.registry import RANDOM_WEIGHTS
from lomo.record.belief import doubts
from lomo.record.schema import Record, read_record
from lomo.study.config import Study
from lomo.study.plan import make_plan

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 120

pytestmark = pytest.mark.slow


def command(
    study: dict[str, Any], kind: str, method: str, engine: str, folder: Path, **changes: Any
) -> list[str]:
    spread = {"engine": engine, "num_devices": 2}
    settings = {**study["superglue"]["settings"], **spread}
    # One batch more than two, and its last of one row: rank 1 has none of its own.
    settings |= {"num_train": 9, "batch_size": 4, "epochs": 2}
    study["superglue"] |= {"settings": settings}
    study["memory"] |= {**spread, "dtype": "float32", "activation_checkpointing": [True]}
    plan = make_plan(Study.model_validate(study), source="unit.yaml")
    spec = next(s for s in plan.runs.values() if s.method == method and s.kind == kind)
    spec = spec.model_copy(update=changes)
    arguments = ["--spec", spec.model_dump_json(), "--out", str(folder)]
    return [sys.executable, "-m", "lomo", kind, *arguments]


def run(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments,
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def record_of(folder: Path) -> Record:
    record = read_record(folder / "record.json")
    assert record.spec["num_devices"] == record.provenance.device.num_devices == 2
    assert not list(folder.glob(".rank*"))
    return record


@pytest.fixture
def both(study_dict: dict[str, Any]) -> dict[str, Any]:
    """A study of methods that both engines run."""
    study_dict["superglue"]["methods"] = study_dict["memory"]["methods"] = ["lomo"]
    return study_dict


def test_instructions_over_two_ranks_are_those_of_one(
    instruct_dict: dict[str, Any], tmp_path: Path
) -> None:
    section = instruct_dict["instruct"]
    section["methods"] = ["lomo"]
    section["settings"] |= {"num_train": 9, "batch_size": 4}  # the last step has one row
    records = []
    for engine, num_devices in (("single", 1), ("fsdp2", 2), ("zero3", 2)):
        section["settings"] |= {"engine": engine, "num_devices": num_devices}
        plan = make_plan(Study.model_validate(instruct_dict), source="unit.yaml")
        spec = next(iter(plan.runs.values()))
        folder = tmp_path / spec.engine
        arguments = ["--spec", spec.model_dump_json(), "--out", str(folder)]
        done = run([sys.executable, "-m", "lomo", "instruct", *arguments])
        assert done.returncode == 0, done.stderr
        records.append(read_record(folder / "record.json"))
        assert doubts(records[-1], spec, folder) == []
    one, *spread = records
    for two in spread:
        assert one.result and two.result and one.training and two.training
        assert two.result.value == pytest.approx(one.result.value, rel=1e-4)
        expected = pytest.approx(one.training.last_epoch_loss, rel=1e-4)
        assert two.training.last_epoch_loss == expected
        assert two.training.num_tokens == one.training.num_tokens


@pytest.mark.parametrize("engine", ["fsdp2", "zero3"])
def test_a_run_over_two_ranks_writes_its_record(
    both: dict[str, Any], tmp_path: Path, engine: str
) -> None:
    done = run(command(both, "train", "lomo", engine, tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1  # one rank speaks
    record = record_of(tmp_path)
    assert record.status == "ok" and record.result and record.training and record.throughput
    assert record.spec["engine"] == engine
    assert record.throughput.world_size == 2
    assert record.training.num_steps == 6
    clock = record.clock.model_dump(exclude={"missing"})
    assert sum(clock.values()) - clock["wall_s"] == pytest.approx(clock["wall_s"], rel=0.01)
    steps = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert sum(step["event"] == "step" for step in steps) == 6


def test_a_step_under_zero3_is_measured_on_one_rank(both: dict[str, Any], tmp_path: Path) -> None:
    """The paper runs 7B LOMO under ZeRO-3 on one card."""
    done = run(command(both, "measure", "lomo", "zero3", tmp_path, num_devices=1))
    assert done.returncode == 0, done.stderr
    record = read_record(tmp_path / "record.json")
    assert record.status == "ok" and record.memory and record.throughput and record.efficiency
    assert record.throughput.world_size == record.provenance.device.num_devices == 1


@pytest.mark.parametrize(
    ("engine", "method"), [("fsdp2", "lomo"), ("fsdp2", "lora"), ("zero3", "lomo")]
)
def test_a_step_over_two_ranks_is_measured_and_random_weights_are_drawn_as_they_are_spread(
    both: dict[str, Any], tmp_path: Path, engine: str, method: str
) -> None:
    both["memory"]["methods"] = [method]
    folder = tmp_path / "model"
    folder.mkdir()
    architecture = {"model_type": "llama", "vocab_size": 300, "hidden_size": 32}
    architecture |= {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = {**architecture, "max_position_embeddings": 64, RANDOM_WEIGHTS: 0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run_folder = tmp_path / "run"
    done = run(command(both, "measure", method, engine, run_folder, model_path=str(folder)))
    assert done.returncode == 0, done.stderr
    record = record_of(run_folder)
    assert record.status == "ok" and record.model
    assert record.model.missing["weights_sha256"] == "random weights, seed 0"
    assert record.memory and record.throughput and record.efficiency
    assert record.throughput.world_size == 2
    assert record.throughput.num_tokens_timed == 3 * 2 * 2 * 32  # steps, ranks, batch, sequence
    if (engine, method) == ("fsdp2", "lomo"):
        held = record.memory.sum_of_terms.parameters_bytes
        assert held == pytest.approx(record.model.parameters_bytes / 2, rel=0.01)
    lines = (run_folder / "history.jsonl").read_text().splitlines()
    losses = [line["loss"] for line in map(json.loads, lines) if line["event"] == "step"]
    # Weights of 0.02 know nothing: all 300 tokens are as likely. What was never drawn is no such.
    assert losses[0] == pytest.approx(math.log(300), rel=0.02)


def test_a_rank_that_runs_out_of_memory_is_a_result(both: dict[str, Any], tmp_path: Path) -> None:
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    from lomo.engines.ranks import Ranks\n"
        "    def share(self, batch):\n"
        "        raise MemoryError('none left on this rank')\n"
        "    Ranks.share = share\n"
    )
    folder = tmp_path / "run"
    done = run(command(both, "train", "lomo", "fsdp2", folder), PYTHONPATH=f"{patch}:{ROOT}")
    assert done.returncode == 0, done.stderr
    record = record_of(folder)
    assert record.status == "oom" and record.evidence
    assert record.evidence.message == "rank 1: none left on this rank"
    assert record.evidence.step == 1


def test_a_mistake_found_by_the_ranks_is_told_once(both: dict[str, Any], tmp_path: Path) -> None:
    arguments = command(both, "train", "lomo", "fsdp2", tmp_path, data_path=str(tmp_path / "no"))
    done = run(arguments)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "record.json").exists()


def test_a_rank_that_is_killed_ends_the_run(both: dict[str, Any], tmp_path: Path) -> None:
    arguments = command(both, "train", "lomo", "fsdp2", tmp_path)
    process = subprocess.Popen(
        arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + TIMEOUT_S
    ranks: list[psutil.Process] = []
    while len(ranks) < 2 and time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        ranks = [child for child in children if child.environ().get("RANK")]
        time.sleep(0.1)
    victim = next(rank for rank in ranks if rank.environ()["RANK"] == "1")
    victim.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1
    assert "rank 1 got signal 9 (often the kernel's, when memory runs out)" in errors
    assert not (tmp_path / "record.json").exists()
    assert not any(rank.is_running() for rank in ranks)
