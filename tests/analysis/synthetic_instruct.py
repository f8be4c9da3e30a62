"""Made-up records of trainings on instructions, with the samples that bear them out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import synthetic

from lomo.record.clock import NUM_WARMUP_STEPS, TimedStep, summarise
from lomo.record.evidence import perplexity_of
from lomo.record.schema import Record, write_record
from lomo.specs import InstructSpec
from lomo.study.plan import Plan
from lomo.system.files import write_json_lines, write_text

# Mean loss that a method is given on held-out answers, in nats a token.
LOSSES = {"zero_shot": 2.4, "lora": 2.2, "sgd": 2.05, "adamw": 2.0, "lomo": 2.05}
PER_SAMPLE = 20  # tokens, and up to as many more
PARTS = (
    *("evidence", "model", "training", "result", "throughput", "efficiency", "memory"),
    "applied",
)


def study_dict(file: str, **changes: Any) -> dict[str, Any]:
    """A study of instructions alone, three seeds."""
    section: dict[str, Any] = {
        "models": ["mini"],
        "methods": ["zero_shot", "lora", "sgd", "lomo"],
        "data": file,
        "seeds": [1, 2, 3],
        "settings": {
            **{"epochs": 2, "batch_size": 10, "num_train": 100, "num_dev": 10, "num_test": 20},
            **{"max_length": 256, "dtype": "float32"},
        },
    }
    section |= changes.pop("instruct", {})
    study = {"study": "made-up", "title": "Made-up answers", "data": "generated", **changes}
    return study | {"instruct": section}


def samples(spec: InstructSpec) -> list[dict[str, Any]]:
    """A hard example is hard for all methods; a run has some luck of its own."""
    of_data, of_run = random.Random("instructions"), random.Random(spec.run_id)
    rate = 0.1 * spec.trial + of_run.uniform(-0.02, 0.02)
    found = []
    for index in range(spec.num_test):
        number = PER_SAMPLE + of_data.randrange(PER_SAMPLE)
        loss = LOSSES[spec.method] + rate + of_data.uniform(-0.5, 0.5)
        found.append({"doc_id": index, "log_likelihood": -number * loss, "num_tokens": number})
    return found


def history(spec: InstructSpec) -> list[dict[str, Any]]:
    """Steps whose loss falls, and an evaluation an epoch, the last the best."""
    if spec.method == "zero_shot":
        return [_event(e) for e in _evaluations(spec)]
    each, events = spec.num_train // spec.batch_size, []
    for epoch in range(1, spec.epochs + 1):
        for at in range(each):
            step = (epoch - 1) * each + at + 1
            told = {"event": "step", "step": step, "epoch": epoch, "loss": 3.0 - 0.03 * step}
            events.append(told | {"grad_norm": 1.0, "num_tokens": 1900, "step_s": 0.5})
        events.append(_event(_evaluations(spec)[epoch - 1]))
    if spec.selection == "dev":
        events.append(_event(_evaluations(spec)[-1]))
    return events


def _event(evaluation: dict[str, Any]) -> dict[str, Any]:
    keys = ("step", "epoch", "split", "metric", "value")
    return {"event": "evaluation", **{key: evaluation[key] for key in keys}}


def _evaluations(spec: InstructSpec) -> list[dict[str, Any]]:
    found = perplexity_of(samples(spec))
    trains = spec.method != "zero_shot"
    each = spec.num_train // spec.batch_size if trains else 0

    def evaluation(split: str, epoch: int, value: float, stderr: float | None) -> dict[str, Any]:
        return {
            **{"split": split, "step": each * epoch, "epoch": epoch, "metric": "perplexity"},
            **{"value": value, "stderr": stderr, "num_cut": 3, "num_ties": 0},
            "num_examples": spec.num_dev if split == "dev" else spec.num_test,
            "other_metrics": {
                **{"nll_per_token": found.nll_per_token, "num_tokens": found.num_tokens},
                "num_left_out": 0,
            },
        }

    last = spec.epochs if trains else 0
    epochs = range(1, last + 1) if trains else [0]
    told = [
        evaluation(spec.selection, e, found.value + 0.5 * (last - e), found.stderr) for e in epochs
    ]
    if spec.selection == "dev":
        told.append(evaluation("test", last, found.value, found.stderr))
    return told


def record(spec: InstructSpec) -> dict[str, Any]:
    """The record of a run that ended well."""
    told = _evaluations(spec)
    made = synthetic.record_dict(spec) | {"evaluations": told, "result": told[-1]}
    made |= dict.fromkeys(("training", "throughput", "efficiency", "memory", "applied"))
    if spec.method == "zero_shot":
        return made
    steps = [event for event in history(spec) if event["event"] == "step"]
    timed = [TimedStep(e["step_s"], e["num_tokens"], e["num_tokens"] + 100) for e in steps]
    speed = summarise(timed, num_warmup_steps=NUM_WARMUP_STEPS, world_size=1)
    half = len(steps) // 2
    training = {
        **{"num_steps": len(steps), "num_skipped_steps": 0, "num_epochs": spec.epochs},
        **{"num_train_examples": 98, "num_cut": 7, "num_test_seen": 0, "num_dev_shared": 0},
        **{"num_tokens": 1900 * len(steps), "num_padding_tokens": 100 * len(steps)},
        **{"first_loss": steps[0]["loss"], "last_loss": steps[-1]["loss"]},
        "first_epoch_loss": sum(e["loss"] for e in steps[:half]) / half,
        "last_epoch_loss": sum(e["loss"] for e in steps[half:]) / half,
        **{"selected_epoch": spec.epochs, "num_answer_tokens": 9000},
        **{"num_left_out": 2, "num_repeated": 4},
    }
    return made | {"training": training, "throughput": speed.model_dump()}


def write_results(results: Path, plan: Plan, change: synthetic.Change | None = None) -> Path:
    """Plan, records, samples and histories; `change` alters or drops (None) a record."""
    write_text(results / "plan.json", plan.model_dump_json())
    for run_id, spec in plan.runs.items():
        assert isinstance(spec, InstructSpec)
        made: dict[str, Any] | None = record(spec)
        if change is not None and made is not None:
            made = change(run_id, made)
        if made is None:
            continue
        folder = results / "runs" / run_id
        missing = {name: "made up" for name in PARTS if made[name] is None}
        write_record(folder / "record.json", Record.model_validate(made | {"missing": missing}))
        write_json_lines(folder / "samples.jsonl", samples(spec))
        write_json_lines(folder / "history.jsonl", history(spec))
    return results
