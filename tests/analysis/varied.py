"""Made-up studies with everything in them: sizes, seeds, trials, failures, ties, uneven numbers.

Nothing of it agrees with its own samples or history: only what is made of the records is tried.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import synthetic

from analysis.records.collected import Collected, load
from lomo.forecast.estimates import Estimate, Estimates
from lomo.study.machine import GIB, Machine, Speed
from lomo.study.plan import Plan
from lomo.system.files import write_text

FAILURES = ("oom", "diverged", "timeout", "unsupported", "predicted_oom")
SHORT = {"epochs": 2, "num_train": 48, "num_dev": 20, "num_test": 20}
# Of a task the same for all runs: they are put to the same examples.
NUM_EXAMPLES = {"rte": 400, "boolq": 1000, "wsc": 20, "wic": 20, "multirc": 400, "copa": 100}
# By which a made-up number is multiplied: equal, near, and far from the printed ones.
FACTORS = (1.0, 1.0, 0.995, 1.02, 1.04, 1.1, 0.7)


def dev() -> dict[str, Any]:
    """Six tasks, two models, two sizes of each measurement; chosen on dev."""
    study = synthetic.study_dict(data="superglue", note="A note.")
    both = {"models": ["mini", "llama-7b"]}
    for section in ("superglue", "lora_rank"):
        study[section] |= both | {"settings": study[section]["settings"] | SHORT, "seeds": [1, 2]}
    study["lora_rank"] |= {"tasks": ["multirc"], "ranks": [1, 8]}
    study["memory"] |= both | {"methods": ["lora", "sgd", "lomo", "adamw"]}
    study["memory"] |= {"sequence_length": 512}
    study["throughput"] |= both | {"sequence_length": 1024, "batch_size": [1, 4]}
    return study


def test() -> dict[str, Any]:
    """The paper's models: all that its headline numbers are made of; chosen on test, one seed."""
    study = synthetic.study_dict(data="superglue", protocol="paper", note=None)
    settings = study["superglue"]["settings"] | SHORT
    study["superglue"] |= {"models": ["llama-13b"], "methods": ["zero_shot", "lora", "lomo"]}
    study["superglue"] |= {"settings": settings | {"batch_size": 8}}
    study["lora_rank"] |= {"models": ["llama-13b"], "settings": settings, "ranks": [1, 4, 8]}
    seven = {"models": ["llama-7b"], "methods": ["sgd", "lomo", "adamw"]}
    study["memory"] |= seven | {"sequence_length": 512, "attention": "eager"}
    study["memory"] |= {"activation_checkpointing": [False]}
    study["throughput"] |= seven | {"sequence_length": 1024, "engine": "fsdp2"}
    study["throughput"] |= {"num_devices": [2, 1, 8]}
    return study


def part() -> dict[str, Any]:
    """Two generated tasks of the six, and nothing measured."""
    study = synthetic.study_dict()
    settings = study["superglue"]["settings"] | SHORT
    study["superglue"] |= {"models": ["llama-7b"], "settings": settings, "seeds": [3, 4, 5]}
    study["superglue"] |= {"tasks": ["copa", "boolq"], "methods": ["zero_shot", "lora", "lomo"]}
    return {k: v for k, v in study.items() if k not in ("lora_rank", "memory", "throughput")}


def rounding() -> dict[str, Any]:
    """Two methods under all treatments, LoRA among them; one model, two tasks, three seeds."""
    study = synthetic.study_dict()
    section = {key: value for key, value in study["superglue"].items() if key != "grids"}
    settings = {key: value for key, value in section["settings"].items() if key != "dtype"}
    section |= {"methods": ["lora", "sgd", "lomo"], "tasks": ["rte", "boolq"]}
    section |= {"settings": settings | SHORT, "seeds": [1, 2, 3]}
    sections = ("superglue", "lora_rank", "memory", "throughput")
    return {k: v for k, v in study.items() if k not in sections} | {"rounding": section}


# Test accuracy of the three seeds of `seeds`, before what a task is easier; SGD stays at chance.
REACHED = {
    "zero_shot": (0.50, 0.51, 0.49),
    "lora-r2": (0.70, 0.71, 0.70),
    "adamw": (0.93, 0.80, 0.90),
    "sgd": (0.52, 0.50, 0.53),
    "lomo": (0.92, 0.93, 0.92),
    "lora-r1": (0.60, 0.61, 0.60),
    "lora_lomo-r1": (0.90, 0.91, 0.90),
    "lora-r4": (0.51, 0.85, 0.50),
    "lora_lomo-r4": (0.90, 0.91, 0.90),
    "lora-r8": (0.88, 0.90, 0.87),
    "lora_lomo-r8": (0.90, 0.87, 0.90),
}


def seeds() -> dict[str, Any]:
    """Three seeds: orders that are decided and that are not, and a method that stays at chance."""
    study = synthetic.study_dict()
    tasks = {"tasks": ["rte", "boolq", "multirc"], "seeds": [1, 2, 3], "grids": {}}
    study["superglue"] |= tasks | {"methods": ["zero_shot", "lora", "adamw", "sgd", "lomo"]}
    study["lora_rank"] |= {"tasks": ["multirc"], "ranks": [1, 4, 8], "seeds": [1, 2, 3]}
    study.pop("memory")
    return study


def reached(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
    """A record of `seeds`."""
    spec = record["spec"]
    if record["kind"] == "measure":
        return record
    easier = {"rte": 0.02, "boolq": -0.02, "multirc": 0.0}[spec["task"]]
    value = round(REACHED[run_id.split("/")[2]][spec["seed"] - 1] + easier, 2)
    changed = [evaluation | {"value": value} for evaluation in record["evaluations"]]
    return record | {"evaluations": changed, "result": changed[-1]}


class Varied:
    """A change of records: each run's own draws, the same for the same study and run id."""

    def __init__(self, study: str, share_failed: float) -> None:
        self.study, self.share_failed = study, share_failed

    def __call__(self, run_id: str, record: dict[str, Any]) -> dict[str, Any] | None:
        draw = random.Random(f"{self.study} {run_id}")
        fails = draw.random() < self.share_failed
        record = record | {"provenance": _provenance(record["provenance"], draw)}
        tied = record["spec"]["model"] == "mini"
        record["model"] = record["model"] | {"tied_embeddings": tied}
        if fails and record["spec"]["method"] != "zero_shot":
            status = draw.choice((*FAILURES, None))
            return None if status is None else synthetic.failed(record, status)
        if record["kind"] == "train":
            return record | _scores(record, draw)
        return record | _measured(record, draw)


def _provenance(origin: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    tenants = draw.choice(([], [], ["python3.11"], ["cc1plus", "python3.11"], None))
    missing = dict(origin["device"]["missing"])
    if tenants is None:
        missing["co_tenants"] = "made up"
    device = origin["device"] | {"co_tenants": tenants, "missing": missing}
    device["name"] = draw.choice(("made-up CPU", "NVIDIA GeForce RTX 3090"))
    device["num_threads"] = draw.choice((1, 2))
    commit = draw.choice(("1", "2")) * 40
    return origin | {"device": device, "git_commit": commit, "git_dirty": draw.random() < 0.5}


def _scores(record: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Coarse values, so that some are equal; an error of the sample that is not always there."""

    def value_of(method: str) -> float:
        level = {"zero_shot": 0.45, "lora": 0.6, "lora_lomo": 0.7}.get(method, 0.75)
        return round(min(0.95, max(0.05, level + 0.05 * draw.randrange(-4, 5))), 2)

    method = record["spec"]["method"]
    changed = []
    for evaluation in record["evaluations"]:
        number = NUM_EXAMPLES[record["spec"]["task"]]
        known = draw.random() < 0.5
        value = value_of(method)
        by_mean = max(0.0, value - 0.05 * (record["spec"]["task"] == "copa"))
        changed.append(
            evaluation
            | {"value": value, "num_examples": number}
            | {"other_metrics": {"acc_token_mean": by_mean}}
            | {"num_cut": draw.choice((0, 0, 3, number // 5)), "num_ties": draw.choice((0, 0, 18))}
            | {"stderr": draw.uniform(0.005, 0.05) if known else None}
            | {"missing": {} if known else {"stderr": "made up"}}
        )
    tests = [evaluation for evaluation in changed if evaluation["split"] == "test"]
    training = record["training"]
    if training is not None:
        training = training | {
            **{"num_skipped_steps": draw.choice((0, 0, 0, 2)), "num_cut": draw.choice((0, 0, 7))},
            **{"num_test_seen": draw.choice((0, 0, 0, 0, 3)), "selected_epoch": tests[-1]["epoch"]},
            "num_train_examples": draw.choice((48, 47)),
        }
    return {"evaluations": changed, "result": tests[-1], "training": training}


def _measured(record: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    speed, memory = dict(record["throughput"]), dict(record["memory"])
    rate = speed["tokens_per_s_per_device"] * draw.uniform(0.3, 1.2)
    low, high = rate * draw.uniform(0.6, 1.0), rate * draw.uniform(1.0, 1.3)
    names = (
        "tokens_per_s_per_device",
        "tokens_per_s_per_device_p10",
        "tokens_per_s_per_device_p90",
    )
    speed |= dict(zip(names, (rate, low, high), strict=True))
    speed["step_s_median"] *= draw.uniform(0.5, 2.0)
    parts = {
        k: int(v * draw.choice(FACTORS)) for k, v in memory["at_peak"].items() if k != "missing"
    }
    parts["residual_bytes"] = draw.choice((0, 0, -4096, 2**21))
    terms = {
        name: int(value * draw.choice(FACTORS))
        for name, value in memory["sum_of_terms"].items()
        if name not in ("missing", "total_bytes")
    }
    memory |= {"at_peak": parts, "peak_bytes": sum(parts.values())}
    memory |= {"sum_of_terms": terms | {"total_bytes": sum(terms.values())}}
    memory["gradients_peak_bytes"] = terms["gradients_bytes"]
    memory["peak_phase"] = draw.choice(("forward", "backward", "step"))
    on_a_gpu = draw.random() < 0.5
    efficiency = record["efficiency"]
    if on_a_gpu:
        memory |= {"counter": "max_memory_allocated", "cuda": _cuda(memory["peak_bytes"], draw)}
        memory["missing"] = {}
        efficiency = efficiency | {
            **{"peak_flops_per_s": 1e12, "mfu": draw.uniform(0.1, 0.6), "hfu": draw.random()},
            **{"energy_j_per_step": 5.0, "energy_j_per_token": draw.uniform(0.001, 0.1)},
            "missing": {},
        }
    return {"throughput": speed, "memory": memory, "efficiency": efficiency}


def _cuda(peak: int, draw: random.Random) -> dict[str, Any]:
    def peaks(share: float) -> dict[str, int]:
        names = ("requested", "allocated", "active", "reserved")
        found = {f"{n}_peak_bytes": int(share * peak * (1 + i / 8)) for i, n in enumerate(names)}
        return (
            found
            | {"num_alloc_retries": draw.randrange(3), "num_ooms": 0}
            | {"driver_used_bytes": int(1.5 * peak)}
        )

    timed = peaks(draw.choice((1.0, 1.005, 1.2)))
    return {"metered": peaks(1.0), "timed": timed, "allocator_settings": draw.choice(("a", "b"))}


def _estimates(plan: Plan, folder: Path) -> None:
    """Predictions: some equal, some not, some that could not be made, and some runs without any."""
    runs = {}
    for run_id, spec in plan.runs.items():
        draw = random.Random(f"estimate {run_id}")
        if draw.random() < 0.1:
            continue
        peak = None
        if spec.kind == "measure" and draw.random() < 0.9:
            peak = int(synthetic.record_dict(spec)["memory"]["peak_bytes"] * draw.choice(FACTORS))
        runs[run_id] = Estimate(
            **{"peak_bytes": peak, "account": draw.choice(("simulated", "closed_form"))},
            **{"fit": "fits" if peak else "unknown", "reason": None if peak else "made up"},
            **{"host_bytes": 1, "seconds": 1.0, "kept_bytes": 0},
        )
    machine = Machine(
        **{"kind": "cpu", "name": "CPU", "num_devices": 1, "origin": "found"},
        **{"device_bytes": GIB, "host_bytes": GIB},
    )
    speed = Speed(flops_per_s={}, source="a test")
    found = Estimates(machine=machine, speed=speed, download_bytes=0, runs=runs)
    write_text(folder / "estimates.json", found.model_dump_json())


STUDIES = {
    "dev": (dev, Varied("dev", 0.12)),
    "test": (test, Varied("test", 0.08)),
    "part": (part, Varied("part", 0.3)),
    "seeds": (seeds, reached),
    "rounding": (rounding, Varied("rounding", 0.1)),
}


def collected(name: str, folder: Path) -> Collected:
    """The study of that name, written into `folder` and collected."""
    make, change = STUDIES[name]
    plan = synthetic.plan_of(make())
    synthetic.write_results(folder, plan, change)
    _estimates(plan, folder)
    synthetic.collect_unquestioned(folder)
    return load(folder)
