"""A record is believed only where it equals its plan, its evaluations, its samples, its history."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import synthetic
from edits import (
    Edit,
    as_a_failure,
    at,
    better,
    both,
    earlier,
    edit,
    edit_lines,
    without_a_training,
)

from analysis.cli import main
from analysis.records.collect import collect
from lomo.errors import UserError
from lomo.record import belief, evidence
from lomo.record.belief import MOST_NAMED
from lomo.record.schema import Record
from lomo.study.plan import Plan

TRAINED = "train/mini/lomo/rte/s42/t0"
OTHER_TRIAL = "train/mini/lomo/rte/s42/t1"
OTHER_TASK = "train/mini/lomo/copa/s42/t0"
ZERO_SHOT = "train/mini/zero_shot/rte/s42/t0"
MEASURED = "measure/mini/lomo/128x8-bfloat16-plain"
OTHER_MEASURED = "measure/mini/sgd/128x8-bfloat16-plain"


def plan() -> Plan:
    study = synthetic.study_dict()
    for section in ("lora_rank", "throughput"):
        study.pop(section)
    grids = {"lomo": {"learning_rate": [0.05, 0.03]}}
    study["superglue"] |= {"methods": ["zero_shot", "lomo"], "grids": grids}
    study["superglue"] |= {"tasks": ["rte", "copa"]}
    study["memory"] |= {"methods": ["sgd", "lomo"]}
    return synthetic.plan_of(study)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write_results(tmp_path_factory.mktemp("good"), plan())


@pytest.fixture
def results(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "made-up"))


RECORDS: dict[str, tuple[str, Edit, str]] = {
    "another study": (TRAINED, at("study", value="theirs"), "study is 'theirs', the plan says"),
    "another run": (TRAINED, at("run_id", value=OTHER_TRIAL), "run_id is"),
    "99 epochs": (TRAINED, at("spec", "epochs", value=99), "spec.epochs is 99, the plan says 4"),
    "a hyper": (TRAINED, at("spec", "hyper", "learning_rate", value=1.0), "spec.hyper is"),
    "a key more": (TRAINED, at("spec", "extra", value=1), "spec.extra is 'is unknown"),
    "a key less": (TRAINED, lambda record: record["spec"].pop("seed"), "spec.seed is"),
    "result alone": (TRAINED, at("result", "value", value=0.99), "result is"),
    "result and evaluation": (TRAINED, better, "its samples give 0."),
    "zero-shot": (ZERO_SHOT, better, "its samples give 0."),
    "dev of one epoch": (TRAINED, at("evaluations", 0, "value", value=0.99), "the best evaluation"),
    "dev below the best": (TRAINED, at("evaluations", 0, "value", value=0.1), "evaluations.0 is"),
    "an epoch that is not the best": (TRAINED, earlier, "the best evaluation is"),
    "an evaluation less": (TRAINED, lambda r: r["evaluations"].pop(1), "the epochs are"),
    "num_examples": (TRAINED, at("evaluations", 0, "num_examples", value=900), "num_examples"),
    "metric": (TRAINED, at("result", "metric", value="f1"), "result is"),
    "selected epoch": (TRAINED, at("training", "selected_epoch", value=2), "selected_epoch is 2"),
    "steps": (TRAINED, at("training", "num_steps", value=77), "training.num_steps is 77"),
    "epochs": (TRAINED, at("training", "num_epochs", value=3), "training.num_epochs is 3"),
    "examples": (TRAINED, at("training", "num_train_examples", value=301), "num_train_examples"),
    "skipped steps": (
        TRAINED,
        at("training", "num_skipped_steps", value=99),
        "skipped_steps is 99",
    ),
    "cut examples": (TRAINED, at("training", "num_cut", value=999), "training.num_cut is 999"),
    "no time": (TRAINED, at("provenance", "started_at", value="yesterday"), "started_at"),
    "no zone": (TRAINED, at("provenance", "started_at", value="2026-11-25T10:00:00"), "a zone"),
    "a loss": (TRAINED, at("training", "last_epoch_loss", value=0.001), "last_epoch_loss is"),
    "tokens": (TRAINED, at("training", "num_tokens", value=1), "num_tokens is 1"),
    "no training": (TRAINED, without_a_training, "has no training"),
    "ok that is none": (TRAINED, as_a_failure, "has no evidence"),
    "negative": (TRAINED, at("training", "num_steps", value=-76), "num_steps: "),
    "NaN": (TRAINED, at("result", "value", value=float("nan")), "result.value: "),
    "infinite": (MEASURED, at("throughput", "step_s_median", value=float("inf")), "step_s_median"),
    "a number as text": (TRAINED, at("result", "value", value="0.99"), "result.value: "),
    "a flag as a number": (MEASURED, at("memory", "peak_bytes", value=True), "peak_bytes: "),
    "clock": (TRAINED, at("clock", "train_s", value=0.1), "clock.wall_s is 6.0"),
    "model": (TRAINED, at("model", "name", value="llama-7b"), "model.name is 'llama-7b'"),
    "dtype": (MEASURED, at("model", "dtype", value="float32"), "model.dtype is 'float32'"),
    "devices": (MEASURED, at("provenance", "device", "num_devices", value=8), "num_devices is 8"),
    "peak": (MEASURED, at("memory", "peak_bytes", value=1000), "its parts add up to"),
    "peak and a part": (
        MEASURED,
        both(
            at("memory", "peak_bytes", value=lambda old: old - 1000),
            at("memory", "at_peak", "other_bytes", value=lambda old: old - 1000),
        ),
        "memory.peak_bytes without its residual is",
    ),
    "peak and its residual": (
        MEASURED,
        both(
            at("memory", "peak_bytes", value=lambda old: old - 1000),
            at("memory", "at_peak", "residual_bytes", value=-1000),
        ),
        "on a CPU it is 0",
    ),
    "a term": (
        MEASURED,
        at("memory", "sum_of_terms", "optimizer_state_bytes", value=1),
        "its terms add up to",
    ),
    "gradients": (MEASURED, at("memory", "gradients_peak_bytes", value=1), "gradients_bytes is"),
    "phase": (MEASURED, at("memory", "peak_phase", value="step"), "memory.peak_phase is 'step'"),
    "speed": (
        MEASURED,
        at("throughput", "tokens_per_s_per_device", value=1e6),
        "tokens_per_s_per_device is 1000000.0, history.jsonl gives",
    ),
    "a step's time": (MEASURED, at("throughput", "step_s_median", value=1e-6), "step_s_median is"),
    "timed steps": (MEASURED, at("throughput", "num_timed_steps", value=3), "num_timed_steps"),
    "world": (MEASURED, at("throughput", "world_size", value=8), "world_size is 8"),
    "an unknown key": (MEASURED, at("score", value=1), "score: "),
    "null without a reason": (TRAINED, at("result", value=None), "null without a reason"),
}


@pytest.mark.parametrize("name", ["num_parameters", "num_trainable_parameters"])
def test_runs_of_one_model_tell_the_same_of_it(name: str, results: Path) -> None:
    """Of two that differ nobody knows which is right: both are named."""
    edit(results, TRAINED, at("model", name, value=7))
    with pytest.raises(UserError, match="2 records are not believed") as error:
        collect(results)
    for run_id in (TRAINED, OTHER_TASK):
        assert f"{run_id}/record.json: `model` has other facts" in str(error.value)


def test_random_weights_of_a_model_are_no_other_facts_of_it(results: Path) -> None:
    """What is measured may have them where what is trained has a base: no hash, and why."""
    edit(results, TRAINED, at("model", "weights_sha256", value=None))
    edit(results, TRAINED, at("model", "missing", "weights_sha256", value="random weights"))
    collect(results)


@pytest.mark.parametrize("name", RECORDS)
def test_an_edited_record_is_not_believed(name: str, results: Path) -> None:
    run_id, change, expected = RECORDS[name]
    edit(results, run_id, change)
    with pytest.raises(UserError) as error:
        collect(results)
    path = results / "runs" / run_id / "record.json"
    assert str(error.value).startswith(f"{path}: ") and expected in str(error.value)
    assert "only" in str(error.value.fix) and not (results / "tables").exists()


def test_what_was_not_edited_is_believed(results: Path) -> None:
    assert set(collect(results)["status"]) == {"ok"}


def wrong(lines: list[Any]) -> None:
    lines[0]["acc"] = 1.0 - lines[0]["acc"]


def turned(lines: list[Any]) -> None:
    lines[-1]["log_likelihoods"].reverse()
    lines[-1]["acc"] = 1.0 - lines[-1]["acc"]


def twice(lines: list[Any]) -> None:
    lines[0] = lines[1]


def relabelled(lines: list[Any]) -> None:
    for line in lines[:2]:  # as many are right as before, but of other labels
        line["label"] = 1 - line["label"]
        line["log_likelihoods"].reverse()


def slower(lines: list[Any]) -> None:
    lines[-1]["step_s"] *= 2


def at_once(lines: list[Any]) -> None:
    for line in lines:
        line["step_s"] = 0.0


def heavier(lines: list[Any]) -> None:
    lines[2]["gradients_bytes"] *= 99


FILES: dict[str, tuple[str, str, Callable[[list[Any]], Any], str]] = {
    "an outcome": (TRAINED, "samples.jsonl", wrong, "acc of samples.jsonl is [0]"),
    "a score": (TRAINED, "samples.jsonl", turned, "result.value is"),
    "a sample less": (TRAINED, "samples.jsonl", lambda lines: lines[:-1], "num_examples is 200"),
    "a sample twice": (TRAINED, "samples.jsonl", twice, "different ones are 199"),
    "other labels": (TRAINED, "samples.jsonl", relabelled, "is of other examples than"),
    "no samples": (TRAINED, "samples.jsonl", lambda lines: [], "num_examples is 200"),
    "samples without scores": (
        TRAINED,
        "samples.jsonl",
        lambda lines: [{"doc_id": line["doc_id"], "label": 0} for line in lines],
        "does not hold what it has to (KeyError: 'log_likelihoods')",
    ),
    "a step less": (TRAINED, "history.jsonl", lambda lines: lines[1:], "history.jsonl has 75"),
    "a step's time": (MEASURED, "history.jsonl", slower, "history.jsonl gives"),
    "steps without time": (
        MEASURED,
        "history.jsonl",
        at_once,
        "does not hold what it has to (Zero",
    ),
    "no peak": (
        MEASURED,
        "timeline.jsonl",
        lambda lines: [line for line in lines if line["event"] != "peak"],
        "peaks of timeline.jsonl is 0",
    ),
    "a gradient": (MEASURED, "timeline.jsonl", heavier, "gradients_peak_bytes is"),
}


@pytest.mark.parametrize("name", FILES)
def test_an_edited_file_beside_a_record_is_told(name: str, results: Path) -> None:
    run_id, file, change, expected = FILES[name]
    edit_lines(results, run_id, file, change)
    with pytest.raises(UserError) as error:
        collect(results)
    assert f"{run_id}/record.json: " in str(error.value) and expected in str(error.value)


BESIDE = [
    *((TRAINED, name) for name in ("samples.jsonl", "history.jsonl")),
    *((MEASURED, name) for name in ("history.jsonl", "timeline.jsonl")),
    (ZERO_SHOT, "history.jsonl"),
]


@pytest.mark.parametrize(("run_id", "name"), BESIDE)
@pytest.mark.parametrize("spoiled", ["gone", "cut", "broken", "not UTF-8", "no objects"])
def test_a_file_beside_a_record_that_is_gone_or_broken_is_told(
    run_id: str, name: str, spoiled: str, results: Path
) -> None:
    path = results / "runs" / run_id / name
    whole = path.read_bytes()
    path.unlink()
    if spoiled != "gone":
        cut = whole[: len(whole) // 2].rstrip(b"\n")
        other = {
            "cut": cut,
            "broken": b"{\n" + whole,
            "not UTF-8": whole.replace(b'": ', b'\xff": '),
        }
        path.write_bytes(other.get(spoiled, b"1\n2\n"))
    with pytest.raises(UserError, match="beside it|does not hold") as error:
        collect(results)
    assert f"{run_id}/record.json: {name} " in str(error.value)


SWAPS = [
    (OTHER_TRIAL, TRAINED, "record.json", "run_id is"),
    (OTHER_TASK, TRAINED, "samples.jsonl", "its samples give"),
    (OTHER_TRIAL, TRAINED, "history.jsonl", "history.jsonl gives"),
    (OTHER_MEASURED, MEASURED, "record.json", "run_id is"),
    (OTHER_MEASURED, MEASURED, "history.jsonl", "history.jsonl gives"),
    (OTHER_MEASURED, MEASURED, "timeline.jsonl", "timeline.jsonl has"),
]


@pytest.mark.parametrize(("source", "target", "name", "expected"), SWAPS)
@pytest.mark.parametrize("linked", [False, True], ids=["copied", "linked"])
def test_what_is_another_runs_is_not_believed(
    source: str, target: str, name: str, expected: str, linked: bool, results: Path
) -> None:
    there, here = (results / "runs" / run_id / name for run_id in (source, target))
    here.unlink()
    if linked:
        here.symlink_to(there.resolve())
    else:
        shutil.copy(there, here)
    with pytest.raises(UserError, match=expected):
        collect(results)


@pytest.mark.parametrize("spoiled", ["a folder", "a link to nothing", "not UTF-8", "nested"])
def test_a_record_that_cannot_be_read_is_no_run_that_was_not_done(
    spoiled: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = results / "runs" / TRAINED / "record.json"
    path.unlink()
    if spoiled == "a folder":
        path.mkdir()
    elif spoiled == "a link to nothing":
        path.symlink_to("nowhere")
    else:
        path.write_bytes(b'{"study": "\xff"}' if spoiled == "not UTF-8" else b"[" * 100_000)
    assert main(["collect", "--results", str(results)]) == 2
    assert f"{path}: " in capsys.readouterr().err


def test_every_record_that_is_not_believed_is_named_at_once(results: Path) -> None:
    for run_id in (TRAINED, OTHER_TASK):
        edit(results, run_id, better)
    edit(results, MEASURED, at("memory", "peak_bytes", value=1))
    (results / "runs" / ZERO_SHOT / "record.json").write_text("{")
    with pytest.raises(UserError, match="4 records are not believed") as error:
        collect(results)
    for run_id in (TRAINED, OTHER_TASK, MEASURED, ZERO_SHOT):
        assert f"runs/{run_id}/record.json: " in str(error.value)
    assert "delete the folders of these runs" in str(error.value)


def test_a_message_about_many_records_has_an_end(tmp_path: Path) -> None:
    many = synthetic.plan_of(synthetic.study_dict())
    synthetic.write_results(tmp_path, many, lambda _, record: record | {"study": "theirs"})
    with pytest.raises(UserError) as error:
        collect(tmp_path)
    lines = str(error.value).splitlines()
    assert f"{len(many.runs)} records are not believed" in lines[0]
    assert f"  and {len(many.runs) - MOST_NAMED} more" in lines


def test_a_record_of_no_planned_run_is_left_out(results: Path) -> None:
    stray = results / "runs" / "train/mini/lomo/rte/s43/t0"
    shutil.copytree(results / "runs" / TRAINED, stray)
    assert "s43" not in " ".join(collect(results)["run_id"])


def test_of_equal_epochs_the_latest_is_the_best(results: Path) -> None:
    plan_ = plan()
    path = results / "runs" / TRAINED
    data = json.loads((path / "record.json").read_text())
    for evaluation in data["evaluations"][:-1]:
        evaluation["value"] = 0.5
    record = Record.model_validate(data)
    claims = belief._scores(record, plan_.runs[TRAINED])
    assert [str(claim) for claim in claims if not claim.holds] == []


def test_hfu_is_of_all_devices(results: Path) -> None:
    data = json.loads((results / "runs" / MEASURED / "record.json").read_text())
    spec = plan().runs[MEASURED]
    spec = spec.model_copy(update={"num_devices": 4})
    tokens = spec.batch_size * spec.sequence_length
    rate = data["throughput"]["tokens_per_s_per_device"]
    for factor, doubted in ((1, []), (4, ["efficiency.hfu"])):
        shares = {"peak_flops_per_s": 1e12, "hfu": factor * 1e9 * rate / (4 * tokens) / 1e12}
        shares["mfu"] = 1e6 * rate / 1e12
        found = data["efficiency"] | shares
        found["missing"] = {k: v for k, v in found["missing"].items() if k not in shares}
        record = Record.model_validate(data | {"efficiency": found})
        claims = belief._shares(record, spec)
        assert [claim.key for claim in claims if not claim.holds] == doubted


@pytest.mark.parametrize(("scores", "label"), [([-1.0, -2.0], 1), ([-1.0, -1.0], 0), ([-3, -1], 1)])
def test_an_outcome_is_lm_evals(scores: list[float], label: int) -> None:
    import numpy as np

    assert evidence.outcomes([scores], [label]) == [float(np.argmax(scores) == label)]


@pytest.mark.parametrize("faulty", [False, True])
def test_many_records_are_read_in_processes_to_the_same_end(
    results: Path, monkeypatch: pytest.MonkeyPatch, faulty: bool
) -> None:
    if faulty:
        edit(results, TRAINED, better)
        (results / "runs" / ZERO_SHOT / "record.json").write_text("{")
        shutil.rmtree(results / "runs" / OTHER_TASK)

    def outcome() -> Any:
        try:
            return list(belief.read_believed(results, plan().runs).items())
        except UserError as error:
            return str(error)

    alone = outcome()
    monkeypatch.setattr(belief, "MANY", 1)
    monkeypatch.setattr(belief, "AT_ONCE", 3)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    assert outcome() == alone
    assert isinstance(alone, str) == faulty
