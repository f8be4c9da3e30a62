"""Made-up steps, losses and scores of a run: what its history and its samples hold."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Any

from lomo.specs import MeasureSpec, TaskSpec

# Mean accuracy that a method is given, before the task's and the seed's noise.
LEVELS = {
    "zero_shot": 0.52,
    "sgd": 0.84,
    "adamw": 0.83,
    "lora": 0.77,
    "lomo": 0.85,
    "adalomo": 0.81,
    "lora_lomo": 0.84,
}
SECONDS = {"sgd": 0.021, "adamw": 0.026, "lora": 0.018, "lomo": 0.020, "adalomo": 0.031}


def accuracy(spec: TaskSpec) -> float:
    """The made-up accuracy of a run: the same for the same run id."""
    noise = random.Random(spec.run_id).uniform(-0.03, 0.03)
    of_task = random.Random(spec.task).uniform(-0.06, 0.08)
    of_rank = 0.01 * math.log2(float(spec.hyper.get("rank", 1)))
    return round(min(1.0, LEVELS[spec.method] + noise + of_task + of_rank), 2)


def num_right(spec: TaskSpec) -> int:
    """How many of the test examples the run gets right."""
    return round(accuracy(spec) * spec.num_test)


def steps_per_epoch(spec: TaskSpec) -> int:
    """Optimizer steps of one pass over the training examples."""
    return math.ceil(spec.num_train / spec.batch_size)


def _step_seconds(method: str, number: int) -> Iterable[float]:
    """Made-up times of so many steps, spread evenly around the method's own."""
    for index in range(number):
        yield SECONDS.get(method, 0.024) * (1 + 0.06 * (index % 11 - 5) / 10)


def samples(spec: TaskSpec, value: float, number: int) -> Iterable[dict[str, Any]]:
    """The lines of a run's samples.jsonl, in so many of which it is right: on what is easy in the
    task, first of all, and a little by chance. Four of MultiRC's share a passage."""
    of_task, of_run = random.Random(spec.task), random.Random(spec.run_id)
    hardness = [of_task.random() + 0.4 * of_run.random() for _ in range(number)]
    easiest = sorted(range(number), key=hardness.__getitem__)[: round(value * number)]
    rights = set(easiest)
    for index in range(number):
        label, right = index % 2, index in rights
        scores = [-1.0, -2.0] if (label == 0) == right else [-2.0, -1.0]
        grouped = {"group": index // 4} if spec.task == "multirc" else {}
        both = dict.fromkeys(("acc", "acc_token_mean"), float(right))
        found = {"log_likelihoods": scores, "num_tokens": [1, 1]}
        yield {"doc_id": index, **grouped, "label": label} | found | both


def applied(spec: TaskSpec | MeasureSpec, step: int) -> Iterable[dict[str, Any]]:
    """What a step's 16-bit weights took of it: less of the norms than of the rest."""
    if spec.dtype == "float32" or spec.method in ("zero_shot", "lora"):
        return
    shares = {"norms": 0.1, "attention": 0.6 + 0.01 * step}
    groups = {
        name: {
            **{"applied_intended": 2.0 * share, "intended_squares": 2.0},
            **{"num_asked": 50, "num_moved": round(25 * share)},
            **{"num_watched": 64, "num_parameters": 64 if name == "norms" else 1000},
        }
        for name, share in shares.items()
    }
    intended = "master_copy" if spec.method in ("sgd", "adamw") else "rule"
    yield {"event": "applied", "step": step, "intended": intended, "groups": groups}


def history(spec: TaskSpec | MeasureSpec, slower: float = 1.0) -> Iterable[dict[str, Any]]:
    """The lines of a run's history.jsonl; of a measured one, its steps so many times slower."""
    if isinstance(spec, MeasureSpec):
        number = spec.num_warmup_steps + spec.num_timed_steps
        for step, seconds in enumerate(_step_seconds(spec.method, number), start=1):
            if step <= spec.num_warmup_steps:
                yield from applied(spec, step)
            yield {"event": "step", "step": step, "loss": 3.0, "step_s": slower * seconds}
        return
    if spec.method == "zero_shot":
        value = num_right(spec) / spec.num_test
        yield from (_evaluated(split, 0, 0, value) for split in (spec.selection, "test"))
        return
    generator = random.Random(spec.run_id)
    speed = 0.05 if spec.method == "lomo" else 0.03
    each, value = steps_per_epoch(spec), num_right(spec) / spec.num_test
    times = _step_seconds(spec.method, each * spec.epochs)
    for step, seconds in enumerate(times, start=1):
        loss = 0.15 + 3 * math.exp(-speed * step) + abs(generator.gauss(0, 0.12))
        epoch = (step - 1) // each + 1
        if step % each == 1:
            yield from applied(spec, step)
        yield {
            **{"event": "step", "step": step, "epoch": epoch, "loss": loss},
            **{"grad_norm": 2 * loss, "num_tokens": 40 * spec.batch_size, "step_s": seconds},
        }
        if step % each == 0:
            at = value - 0.03 * (spec.epochs - epoch)
            yield _evaluated(spec.selection, step, epoch, at)
    if spec.selection == "dev":
        yield _evaluated("test", step, epoch, value)


def _evaluated(split: str, step: int, epoch: int, value: float) -> dict[str, Any]:
    place = {"event": "evaluation", "step": step, "epoch": epoch}
    return {**place, "split": split, "metric": "acc", "value": value}
