"""A made-up results folder: a real plan, records with plausible numbers, nothing measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from synthetic_steps import history, num_right, samples, steps_per_epoch

import lomo.study.plan
import lomo.study.trials
from analysis.cli import main
from lomo.record import belief, evidence
from lomo.record.applied import applied_in
from lomo.record.clock import TimedStep, summarise
from lomo.record.evidence import Scored
from lomo.record.schema import Record, write_record
from lomo.specs import InstructSpec, MeasureSpec, TaskSpec, TrainSpec
from lomo.study.config import Study
from lomo.study.plan import Plan, make_plan
from lomo.system.files import write_text
from lomo.system.strict import parse

TASKS = ["rte", "boolq", "wsc", "wic", "multirc", "copa"]
METHODS = ["zero_shot", "sgd", "adamw", "lora", "lomo", "adalomo", "lora_lomo"]
NUM_TENSORS = 39

Change = Callable[[str, dict[str, Any]], dict[str, Any] | None]


def study_dict(**changes: Any) -> dict[str, Any]:
    """A small study with all four sections."""
    settings = {"epochs": 4, "num_train": 300, "num_dev": 100, "num_test": 200, "dtype": "float32"}
    settings["max_length"] = 96
    study: dict[str, Any] = {
        "study": "made-up",
        "title": "A made-up study",
        "data": "generated",
        "note": "These numbers are made up.",
        "superglue": {
            "models": ["mini"],
            "methods": METHODS,
            "tasks": TASKS,
            "seeds": [42],
            "settings": settings,
            "grids": {
                "lomo": {"learning_rate": [0.05, 0.03]},
                "lora": {"learning_rate": [0.005, 0.002]},
            },
        },
        "lora_rank": {
            "models": ["mini"],
            "methods": ["lora", "lora_lomo"],
            "tasks": ["boolq", "multirc"],
            "ranks": [1, 4, 8],
            "seeds": [42],
            "settings": settings,
        },
        "memory": {
            "models": ["mini"],
            "methods": METHODS[1:],
            "batch_size": 8,
            "sequence_length": 128,
            "activation_checkpointing": [False, True],
        },
        "throughput": {
            "models": ["mini"],
            "methods": METHODS[1:],
            "batch_size": 1,
            "sequence_length": 256,
        },
    }
    return study | changes


def models() -> dict[str, Any]:
    """The registry of these tests: a miniature and one of the paper's models."""
    architecture = {"model_type": "llama", "max_position_embeddings": 2048}
    entry = lomo.study.plan.ModelEntry
    return {
        name: entry(
            name=name,
            weights="hub",
            hub="made/up",
            revision="0" * 40,
            architecture=architecture,
            paper=paper,
        )
        for name, paper in (("mini", None), ("llama-7b", "7B"), ("llama-13b", "13B"))
    }


def plan_of(study: dict[str, Any]) -> Plan:
    """The plan of a study, with the models above in place of config/models.yaml.

    It may have fewer seeds and other budgets than its protocol asks for: what tables make of them
    is tested too.
    """
    known = models()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lomo.study.plan, "resolve_model", lambda name, *, where: known[name])
        patch.setattr(lomo.study.trials, "check_protocol", lambda *_: None)
        return make_plan(parse(Study, study, where="study"), source="config/made-up.yaml")


def sizes(model: str) -> tuple[int, int]:
    """(parameters, elements of the largest tensor) of a model."""
    return (6_738_415_616, 32000 * 4096) if model == "llama-7b" else (1_600_000, 163_840)


def ledger(spec: TrainSpec | MeasureSpec) -> dict[str, int]:
    """Bytes by part, as 2+2+12 bytes a parameter and so on."""
    number, largest = sizes(spec.model)
    width = 4 if spec.dtype == "float32" else 2
    adapters = 0.01 if spec.method.startswith("lora") else 1
    states = {"adamw": 12, "sgd": 4, "lora": 12, "lora_lomo": 12}.get(spec.method, 0)
    gradients = {"lomo": largest, "adalomo": largest, "lora_lomo": largest + number // 100}
    tokens = getattr(spec, "sequence_length", 128) * spec.batch_size
    per_token = (number // 700) if spec.activation_checkpointing else number // 80
    return {
        "parameters_bytes": number * width,
        "gradients_bytes": int(gradients.get(spec.method, number * adapters)) * width,
        "optimizer_state_bytes": int(number * states * adapters),
        "activations_bytes": tokens * per_token // 50,
    }


def _memory(spec: TrainSpec | MeasureSpec) -> dict[str, Any]:
    terms = ledger(spec)
    other = terms["activations_bytes"] // 20
    alive = terms | {"activations_bytes": terms["activations_bytes"] * 9 // 10}
    return {
        "counter": "storage_meter",
        "peak_bytes": sum(alive.values()) + other,
        "peak_phase": "backward",
        "at_peak": alive | {"other_bytes": other, "residual_bytes": 0},
        "sum_of_terms": terms | {"total_bytes": sum(terms.values())},
        "gradients_peak_bytes": terms["gradients_bytes"],
        "host_peak_rss_bytes": 10**9,
        "cuda": None,
        "timeline_file": "timeline.jsonl",
        "missing": {"cuda": "measured on a CPU"},
    }


def _throughput(spec: TrainSpec | MeasureSpec, seconds: Sequence[float]) -> dict[str, Any]:
    """The speed of steps that took so long, as the history beside the record has them."""
    measured = isinstance(spec, MeasureSpec)
    tokens = (spec.sequence_length if measured else 40) * spec.batch_size * spec.num_devices
    steps = [TimedStep(each, tokens, tokens) for each in seconds]
    num_warmup = spec.num_warmup_steps if measured else 3
    found = summarise(steps, num_warmup_steps=num_warmup, world_size=spec.num_devices)
    return found.model_dump() | ({} if measured else {"padding_fraction": 0.1})


def _efficiency() -> dict[str, Any]:
    null = ("peak_flops_per_s", "mfu", "hfu", "energy_j_per_step", "energy_j_per_token")
    return {
        "model_flops_per_token": 1e6,
        "hardware_flops_per_step": 1e9,
        "formula": "made up",
        "peak_table": "made up",
        **dict.fromkeys(null),
        "missing": dict.fromkeys(null, "made up"),
    }


def _training(spec: TaskSpec) -> dict[str, Any]:
    value = num_right(spec) / spec.num_test
    trains = spec.method != "zero_shot"
    epoch = spec.epochs if trains else 0
    each = steps_per_epoch(spec)

    def evaluation(split: str, number: float, at: int) -> dict[str, Any]:
        return {
            "split": split,
            "step": each * at,
            "epoch": at,
            "metric": "acc",
            "value": number,
            "stderr": None,
            "num_examples": spec.num_dev if split == "dev" else spec.num_test,
            "num_cut": 0,
            "num_ties": 0,
            "other_metrics": {"acc_token_mean": number},
            "missing": {"stderr": "made up"},
        }

    evaluations = [
        evaluation(spec.selection, value - 0.03 * (epoch - at), at)
        for at in (range(1, epoch + 1) if trains else (0,))
    ]
    result = evaluation("test", value, epoch)
    steps = [event for event in history(spec) if event["event"] == "step"]
    first, last = ([e["loss"] for e in steps if e["epoch"] == at] for at in (1, spec.epochs))
    training = {
        "num_steps": len(steps),
        "num_skipped_steps": 0,
        "num_epochs": spec.epochs,
        "num_train_examples": spec.num_train,
        "num_cut": 0,
        "num_test_seen": 0,
        "num_dev_shared": 0,
        "num_tokens": sum(event["num_tokens"] for event in steps),
        "first_loss": first[0] if trains else None,
        "last_loss": last[-1] if trains else None,
        "first_epoch_loss": sum(first) / len(first) if trains else None,
        "last_epoch_loss": sum(last) / len(last) if trains else None,
        "selected_epoch": epoch,
    }
    seconds = [event["step_s"] for event in steps]
    return {
        "training": training if trains else None,
        "evaluations": [*evaluations, *([result] if spec.selection == "dev" else [])],
        "result": result,
        "throughput": _throughput(spec, seconds) if trains else None,
        "efficiency": None,
        "memory": None,
    }


def record_dict(spec: TrainSpec | MeasureSpec) -> dict[str, Any]:
    """The record of a run that ended well."""
    number, largest = sizes(spec.model)
    width = 4 if spec.dtype == "float32" else 2
    measured = {"training": None, "evaluations": [], "result": None}
    if isinstance(spec, MeasureSpec):
        seconds = [event["step_s"] for event in history(spec) if event["event"] == "step"]
        measured |= {"throughput": _throughput(spec, seconds), "memory": _memory(spec)}
    measured |= {"efficiency": _efficiency()}
    record: dict[str, Any] = {
        "study": spec.study,
        "run_id": spec.run_id,
        "kind": spec.kind,
        "status": "ok",
        "evidence": None,
        "spec": spec.model_dump(),
        "provenance": {
            "fingerprint": f"{spec.kind}-{spec.method}-0123456789abcdef",
            "git_commit": "0" * 40,
            "git_dirty": False,
            "python": "3.12.0",
            "platform": "made-up",
            "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
            "device": {
                "kind": "cpu",
                "name": "made-up CPU",
                "num_devices": spec.num_devices,
                "memory_bytes": None,
                "num_threads": 1,
                "driver": None,
                "cpu_capability": "AVX2",
                "co_tenants": [],
                "missing": {"memory_bytes": "made up", "driver": "a CPU has none"},
            },
            "started_at": "2026-01-01T00:00:00Z",
        },
        "clock": dict.fromkeys(
            ("load_s", "compile_s", "train_s", "evaluate_s", "save_s", "other_s"), 1.0
        )
        | {"wall_s": 6.0},
        "model": {
            "name": spec.model,
            "architecture": "llama",
            "num_parameters": number,
            "num_trainable_parameters": number,
            "parameters_bytes": number * width,
            "largest_parameter_bytes": largest * width,
            "tied_embeddings": False,
            "dtype": spec.dtype,
            "weights_sha256": "0" * 64,
        },
    }
    found = None if isinstance(spec, InstructSpec) else applied_in(history(spec))
    record["applied"] = None if found is None else found.model_dump()
    return record | (_training(spec) if isinstance(spec, TaskSpec) else measured)


def failed(record: dict[str, Any], status: str) -> dict[str, Any]:
    """The same run, ended with `status`."""
    empty = dict.fromkeys(("training", "result", "throughput", "efficiency", "memory", "applied"))
    evidence = {"message": "made up", "step": 1, "peak_before_bytes": 5}
    return record | empty | {"status": status, "evidence": evidence, "evaluations": []}


def write_results(results: Path, plan: Plan, change: Change | None = None) -> Path:
    """Writes plan, records, histories and timelines; `change` alters or drops (None) a record."""
    write_text(results / "plan.json", plan.model_dump_json())
    write_runs(results, plan, change)
    return results


def write_runs(results: Path, plan: Plan, change: Change | None = None) -> None:
    """Writes what the runs of a plan leave, without the plan."""
    for run_id, spec in plan.runs.items():
        record: dict[str, Any] | None = record_dict(spec)
        if change is not None and record is not None:
            record = change(run_id, record)
        if record is None:
            continue
        folder = results / "runs" / run_id
        parts = (
            *("evidence", "model", "training", "result", "throughput", "efficiency", "memory"),
            "applied",
        )
        missing = {name: "made up" for name in parts if record[name] is None}
        write_record(folder / "record.json", Record.model_validate(record | {"missing": missing}))
        _write_lines(folder / "history.jsonl", history(spec, _slower(record, spec)))
        if isinstance(spec, TaskSpec):
            told = record["result"] or {"value": 0.0, "num_examples": spec.num_test}
            told = told["value"], told["num_examples"]
            _write_lines(folder / "samples.jsonl", samples(spec, *told))
        else:
            _write_lines(folder / "timeline.jsonl", _timeline(spec))


def _slower(record: dict[str, Any], spec: TrainSpec | MeasureSpec) -> float:
    """By how much a record's speed was changed, so that its steps' times say the same."""
    now = record["throughput"]
    if spec.kind != "measure" or not now:
        return 1.0
    name = "tokens_per_s_per_device"
    return record_dict(spec)["throughput"][name] / now[name]


def collect_unquestioned(results: Path) -> None:
    """Collects records whose numbers a test has set, and which no run's files bear out."""

    def unexamined(record: Record, _: Any, folder: Path) -> tuple[list[str], Scored | None]:
        if record.result is None or not (folder / evidence.SAMPLES).is_file():
            return [], None
        lines = evidence.read_json_lines(folder / evidence.SAMPLES)
        return [], evidence.scored_in(lines, record.result.metric)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(belief, "_examined", unexamined)
        assert main(["collect", "--results", str(results)]) == 0


def _write_lines(path: Path, events: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(event) + "\n" for event in events))


def _timeline(spec: MeasureSpec) -> Iterable[dict[str, Any]]:
    terms = ledger(spec)
    drops = spec.method in ("lomo", "adalomo")
    # The first and the last tensor (head and embedding) are the largest.
    shares = [5.0] + [1.0] * (NUM_TENSORS - 2) + [5.0]
    alive, order = 0, 0

    def event(name: str, phase: str, parameter: str | None = None) -> dict[str, Any]:
        nonlocal order
        order += 1
        return {
            **{"event": name, "phase": phase, "order": order, "gradients_bytes": alive},
            "total_bytes": terms["parameters_bytes"] + alive,
            "activations_bytes": terms["activations_bytes"],
            "parameter": parameter,
        }

    yield event("phase", "forward")
    yield event("phase", "backward")
    for index, share in enumerate(shares):
        whole = max(shares) if drops else sum(shares)
        alive += round(terms["gradients_bytes"] * share / whole)
        alive = min(alive, terms["gradients_bytes"])
        yield event("gradient_created", "backward", f"p{index}")
        if drops:
            alive = 0
            yield event("gradient_released", "backward", f"p{index}")
    memory = _memory(spec)
    yield {
        **event("peak", "backward"),
        "total_bytes": memory["peak_bytes"],
        "gradients_bytes": memory["at_peak"]["gradients_bytes"],
        "activations_bytes": memory["at_peak"]["activations_bytes"],
    }
    yield event("phase", "step")
