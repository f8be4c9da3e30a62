"""What a plan tells beforehand: which runs fit, what they take, and what a scheduler is asked."""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config

from lomo import methods
from lomo.cli import main
from lomo.errors import UserError
from lomo.forecast import command as plan_command
from lomo.forecast.command import duration, plan_line, plan_table
from lomo.forecast.duration import Sizes
from lomo.forecast.estimates import (
    RESERVE_BYTES,
    UNKNOWN,
    Estimate,
    Estimates,
    fit_of,
    held_bytes,
    read_estimates,
    resources_of,
)
from lomo.forecast.make import PROCESS_BYTES, _estimate, _num_trained, _sizes_in, make_estimates
from lomo.memory.predicted.steps import step_of
from lomo.model.registry import RANDOM_WEIGHTS
from lomo.specs import MeasureSpec, TrainSpec
from lomo.study.config import Study
from lomo.study.machine import GIB, Machine, Speed, _gpus, find_machine, given_machine
from lomo.study.plan import Plan, make_plan


def estimate(**changes: Any) -> Estimate:
    given: dict[str, Any] = {
        "peak_bytes": GIB,
        "account": "simulated",
        "fit": "fits",
        "host_bytes": 2 * 10**9,
        "seconds": 60.0,
        "kept_bytes": 0,
    }
    return Estimate(**{**given, **changes})


def machine(**changes: Any) -> Machine:
    given: dict[str, Any] = {
        **{"kind": "cpu", "name": "CPU", "num_devices": 1, "origin": "found"},
        **{"device_bytes": 4 * GIB, "host_bytes": 4 * GIB},
    }
    return Machine(**{**given, **changes})


def estimates(runs: dict[str, Estimate], **changes: Any) -> Estimates:
    speed = Speed(flops_per_s={"float32": 1e9}, source="a test")
    return Estimates(machine=machine(**changes), speed=speed, download_bytes=0, runs=runs)


@pytest.fixture
def plan(study_dict: dict[str, Any]) -> Plan:
    return make_plan(Study.model_validate(study_dict), source="unit.yaml")


def test_a_run_fits_if_its_peak_and_the_context_do() -> None:
    size = 24 * GIB
    assert fit_of(size - RESERVE_BYTES, size) == "fits"
    assert fit_of(size - RESERVE_BYTES + 1, size) == "tight"
    assert fit_of(size, size) == "tight"
    assert fit_of(size + 1, size) == "does not fit"
    assert fit_of(None, size) == fit_of(size, None) == "unknown"


def test_runs_that_differ_in_rates_and_tasks_share_a_prediction(
    study_dict: dict[str, Any],
) -> None:
    section = study_dict["superglue"]
    grids = {"lomo": {"learning_rate": [0.1, 0.2], "warmup_ratio": [0.0, 0.1]}}
    study_dict["superglue"] = {**section, "tasks": ["rte", "copa"], "grids": grids}
    study_dict["budget"] = "unequal"
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    trained = [run for run in plan.runs.values() if isinstance(run, TrainSpec)]
    names: dict[str, set[str]] = {}
    for run in trained:
        step = step_of(run, "cpu")
        assert (step is None) is not methods.describe(run.method).trains
        if step is not None:
            names.setdefault(run.method, set()).add(step.name)
            assert step.spec.sequence_length == run.max_length
    assert len(names) == 6 and all(len(found) == 1 for found in names.values()), names


def test_what_takes_memory_is_asked_for_apart(plan: Plan) -> None:
    run = next(run for run in plan.runs.values() if run.method == "lora")
    assert isinstance(run, TrainSpec)
    other = run.model_copy(update={"hyper": {**run.hyper, "rank": 64}})
    first, second = step_of(run, "cpu"), step_of(other, "cpu")
    assert first is not None and second is not None and first.name != second.name


def test_a_training_is_told_with_its_micro_batch(plan: Plan) -> None:
    run = next(run for run in plan.runs.values() if run.method == "sgd" and run.kind == "train")
    assert isinstance(run, TrainSpec)
    changes = {"batch_size": 15, "gradient_accumulation": 2, "num_devices": 2, "engine": "fsdp2"}
    step = step_of(run.model_copy(update=changes), "cuda")
    assert step is not None
    assert (step.spec.batch_size, step.spec.gradient_accumulation) == (4, 2)
    assert step.spec.device == "cuda"


def test_a_scheduler_is_asked_for_more_than_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    runs = {"quick": estimate(), "long": estimate(seconds=7200.0), "?": estimate(seconds=None)}
    assert resources_of(path, "quick", None) == UNKNOWN  # told when runs are launched
    path.write_text(estimates(runs).model_dump_json())
    assert resources_of(path, "quick", None) == {"mem_mb": 2500, "runtime": 10}
    assert resources_of(path, "long", None)["runtime"] == 360
    assert resources_of(path, "?", None)["runtime"] == 24 * 60
    assert resources_of(path, "long", 600.0)["runtime"] == 20
    assert resources_of(path, "of a study that has grown", None) == UNKNOWN


def test_ranks_on_a_cpu_share_its_memory(plan: Plan) -> None:
    run = next(run for run in plan.runs.values() if run.kind == "measure")
    spread = run.model_copy(update={"num_devices": 3, "engine": "fsdp2"})
    assert held_bytes(5, spread, "cpu") == 15 and held_bytes(5, spread, "cuda") == 5
    assert held_bytes(None, spread, "cpu") is None


@pytest.mark.parametrize(("kind", "fit"), [("cuda", "too few devices"), ("cpu", "fits")])
def test_only_gpus_can_be_too_few(plan: Plan, kind: Any, fit: str) -> None:
    run = next(run for run in plan.runs.values() if run.kind == "measure")
    spread = run.model_copy(update={"num_devices": 2, "engine": "fsdp2"})
    answer = {"peak_bytes": 10, "account": "simulated", "reason": None}
    speed = Speed(flops_per_s={}, source="a test", why_unknown="made up")
    told = _estimate(spread, Sizes({}, 1, 1), answer, machine(kind=kind), speed)
    assert told.fit == fit


def test_models_that_are_saved_stay_on_disk(instruct_dict: dict[str, Any]) -> None:
    speed = Speed(flops_per_s={}, source="a test", why_unknown="made up")
    sizes = Sizes({"vocab_size": 10}, 1000, 1000)
    instruct_dict["instruct"]["methods"] = ["zero_shot", "sgd"]
    disk = {}
    for saves in (False, True):
        instruct_dict["instruct"]["save"] = saves
        plan = make_plan(Study.model_validate(instruct_dict), source="unit.yaml")
        runs = {
            run_id: _estimate(run, sizes, None, machine(), speed)
            for run_id, run in plan.runs.items()
        }
        disk[saves] = estimates(runs).disk_bytes
    assert disk[True] - disk[False] == 3 * 4000  # three seeds of sgd, in 32 bits


@pytest.mark.parametrize(("drawn", "weights_bytes"), [(False, 4000), (True, 0)])
def test_weights_pass_the_host_of_a_gpu_once(plan: Plan, drawn: bool, weights_bytes: int) -> None:
    run = next(run for run in plan.runs.values() if run.kind == "measure")
    spread = run.model_copy(update={"num_devices": 2, "engine": "fsdp2", "dtype": "float32"})
    speed = Speed(flops_per_s={}, source="a test", why_unknown="made up")
    told = _estimate(spread, Sizes({}, 1000, 1000, drawn), None, machine(kind="cuda"), speed)
    assert told.host_bytes == 2 * PROCESS_BYTES + weights_bytes


def test_a_family_with_names_of_its_own_is_estimated(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "gpt2"
    folder.mkdir()
    config = {"model_type": "gpt2", "vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2}
    (folder / "config.json").write_text(json.dumps({**config, RANDOM_WEIGHTS: 0}))
    section = {"models": [str(folder)], "methods": ["lomo"], "batch_size": 1}
    study = {key: study_dict[key] for key in ("study", "title", "data", "device")}
    plan = make_plan(
        Study.model_validate({**study, "memory": {**section, "sequence_length": 8}}), source="unit"
    )
    found = make_estimates(plan, find_machine("cpu"), tmp_path / "predictions", lambda _: None)
    assert [run.fit for run in found.runs.values()] == ["fits"]
    assert (
        _num_trained(
            next(iter(plan.runs.values())).model_copy(
                update={"method": "lora", "hyper": {"rank": 2}}
            ),
            _sizes_in(GPT2Config(**config)),
            1000,
        )
        == 4 * 2 * 1 * 16
    )


def test_a_broken_file_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    path.write_text('{"machine": ')
    with pytest.raises(UserError, match="holds no estimates"):
        read_estimates(path)


def test_a_study_for_cuda_without_one_is_planned_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lomo.study.machine._gpus", list)
    found = find_machine("cuda")
    assert (found.kind, found.origin, found.device_bytes) == ("cuda", "unknown", None)
    assert find_machine("auto").kind == find_machine("cpu").kind == "cpu"


def test_of_unlike_cards_the_smallest_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [("NVIDIA H200", 141 * GIB), ("NVIDIA L4", 24 * GIB)]
    monkeypatch.setattr("lomo.study.machine._gpus", lambda: cards)
    found = find_machine("auto")
    assert (found.name, found.num_devices, found.device_bytes) == ("NVIDIA L4", 2, 24 * GIB)
    assert find_machine("cpu").kind == "cpu"


SMI = """0, GPU-aaaa, 24576, NVIDIA L4
1, GPU-bbbb, [N/A], NVIDIA GB10
2, GPU-cccc, 144384, NVIDIA H200
"""


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["NVIDIA L4", "NVIDIA GB10", "NVIDIA H200"]),
        ("2,0", ["NVIDIA L4", "NVIDIA H200"]),
        ("GPU-bb", ["NVIDIA GB10"]),
        ("", []),
    ],
)
def test_only_cards_that_a_process_would_see_are_found(
    visible: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess([], 0, stdout=SMI)
    monkeypatch.setattr("lomo.study.machine.has_gpu", lambda: True)
    monkeypatch.setattr("lomo.study.machine.subprocess.run", lambda *_, **__: done)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = dict(_gpus())
    assert list(found) == names
    assert found.get("NVIDIA L4", 24 * GIB) == 24 * GIB and found.get("NVIDIA GB10") is None


@pytest.mark.parametrize(("size", "count"), [(0.0, 1), (-1.0, 1), (float("inf"), 1), (24.0, 0)])
def test_a_machine_of_nothing_is_refused(size: float, count: int) -> None:
    with pytest.raises(UserError, match="--gpu"):
        given_machine(size, count, None)


def test_the_line_of_all_counts_the_time_of_what_is_launched(plan: Plan) -> None:
    ids = list(plan.runs)
    runs = {run_id: estimate() for run_id in ids}
    runs[ids[0]] = estimate(fit="does not fit", peak_bytes=9 * GIB, seconds=1e9)
    line = plan_line(plan, estimates(runs))
    assert f"{len(ids)} runs, at most 9.00 GiB a device of 4.00, 1 will not fit" in line
    assert duration(60.0 * (len(ids) - 1)) in line
    assert ids[0] in plan_table(plan, estimates(runs))


def test_runs_of_one_setting_that_differ_in_what_they_take_have_a_line_each(plan: Plan) -> None:
    runs = {run_id: estimate() for run_id in plan.runs}
    first, last = next(iter(runs)), list(runs)[-1]
    before = plan_table(plan, estimates(runs))
    runs[last] = estimate(peak_bytes=5 * GIB, fit="does not fit")
    told = plan_table(plan, estimates(runs))
    assert "5.00  does not fit" in told and first not in told
    assert len(told.splitlines()) >= len(before.splitlines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpus", "2"], "--gpus: says which card, but not of what size"),
        (["--gpu-name", "H200"], "--gpu-name: says which card"),
        (["--gpu", "24", "--estimates", "x.json"], "--gpu: those in --estimates"),
        (["--estimates", "nowhere.json"], "nowhere.json: cannot be read"),
        (
            ["--estimates", "other.json"],
            "--estimates other.json: holds no estimates of unit's runs",
        ),
    ],
)
def test_what_the_command_would_pass_over_is_refused(
    options: list[str],
    message: str,
    study_dict: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "config").symlink_to(Path.cwd() / "config")
    monkeypatch.chdir(tmp_path)
    Path("unit.yaml").write_text(json.dumps(study_dict))
    Path("other.json").write_text(estimates({"other": estimate()}).model_dump_json())
    assert main(["plan", "unit.yaml", *options]) == 2
    assert message in capsys.readouterr().err


def test_seconds_in_words() -> None:
    words = [duration(s) for s in (None, 40.0, 119.0, 600.0, 3600.0, 36_000.0, 1e6)]
    assert words == ["?", "40 s", "119 s", "10 min", "60 min", "10.0 h", "11.6 days"]


@pytest.mark.slow
def test_the_command_tells_every_run_of_a_study_on_cards_that_are_not_here(
    study_dict: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = Path.cwd()
    (tmp_path / "config").symlink_to(root / "config")
    monkeypatch.chdir(tmp_path)
    study_dict["device"] = "cuda"
    Path("unit.yaml").write_text(json.dumps(study_dict))
    given = ["--gpu", "0.001", "--gpus", "2", "--gpu-name", "NVIDIA H200"]
    assert main(["plan", "unit.yaml", *given, "--out", "estimates.json"]) == 0
    found = read_estimates(Path("estimates.json"))
    assert set(found.runs) == set(make_plan(Study.model_validate(study_dict), source="").runs)
    for run_id, run in found.runs.items():
        assert run.peak_bytes is not None and run.seconds is not None, run_id
        assert (run.fit == "does not fit") is (run.peak_bytes > found.machine.device_bytes)
    assert "2 x NVIDIA H200" in capsys.readouterr().out
    again = main(["plan", "unit.yaml", "--estimates", "estimates.json", "--line"])
    assert again == 0 and len(capsys.readouterr().out.splitlines()) == 1


def test_a_measured_run_is_predicted_as_it_stands(plan: Plan) -> None:
    run = next(run for run in plan.runs.values() if run.kind == "measure")
    assert isinstance(run, MeasureSpec)
    step = step_of(run, "cpu")
    assert step is not None
    same = ("batch_size", "sequence_length", "dtype", "attention", "activation_checkpointing")
    assert [getattr(step.spec, key) for key in same] == [getattr(run, key) for key in same]


def test_a_plan_takes_a_card_by_its_name() -> None:
    parser = argparse.ArgumentParser()
    plan_command.add_options(parser)
    question = ["config/tiny.yaml", "--gpu", "nvidia rtx4090", "--gpus", "2"]
    _, machine = plan_command.check(parser.parse_args(question))
    assert (machine.name, machine.num_devices) == ("RTX 4090", 2)
    assert machine.device_bytes == int(23.64 * GIB)
    _, machine = plan_command.check(parser.parse_args([*question, "--gpu", "24GB"]))
    assert (machine.name, machine.device_bytes) == ("a card of 24 GiB", 24 * GIB)
    with pytest.raises(UserError, match="no card of the table"):
        plan_command.check(parser.parse_args([*question, "--gpu", "RTX 4091"]))
