"""Runs that are killed and started again, each start in a process of its own."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lomo.record.belief import doubts
from lomo.record.clock import Clock
from lomo.record.schema import Record, read_record
from lomo.run import train
from lomo.run.execute import execute
from lomo.run.resume.checkpoints import Checkpoints
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.system.interrupts import Interrupted

Hook = Callable[[pytest.MonkeyPatch], None]
# Beside the record: all trained weights after the last step, and those that were reported.
LAST, REPORTED = "last.safetensors", "reported.safetensors"
# What differs between two runs of one spec.
TIMED = {"clock", "provenance", "throughput", "resumed_at_steps", "checkpoints_refused"}
RATES = {"lora": 0.01, "adamw": 0.003, "adalomo": 0.01}


def brisk(study: dict[str, Any], method: str, **changes: Any) -> Any:
    """The spec of a training of 2 epochs and 8 steps, in which the weights move."""
    plan = make_plan(Study.model_validate(study), source="unit.yaml")
    spec = next(s for s in plan.runs.values() if s.method == method and s.kind == "train")
    hyper = {**spec.hyper, "learning_rate": RATES.get(method, 0.1), **changes.pop("hyper", {})}
    return spec.model_copy(update={"hyper": hyper, **changes})


def often(every: int = 1) -> Hook:
    """Saves at each safe point, or at each `every`-th."""
    seen = 0

    def is_due(self: Checkpoints) -> bool:
        nonlocal seen
        seen += 1
        return seen % every == 0

    return lambda patch: patch.setattr(Checkpoints, "is_due", property(is_due))


def at_step(number: int, what: Callable[[], None], *, after: bool = False) -> Hook:
    """Does `what` before (or after) the training's step `number` of this process is taken."""

    def install(patch: pytest.MonkeyPatch) -> None:
        real, seen = train.training_step, 0

        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == number and not after:
                what()
            found = real(*arguments, **options)
            if seen == number and after:
                what()
            return found

        patch.setattr(train, "training_step", step)

    return install


def signalled(number: int) -> Callable[[], None]:
    """This process gets the signal."""
    return lambda: os.kill(os.getpid(), number)


def sit(spec: Any, folder: Path, *hooks: Hook) -> int:
    """One start of a run in a process of its own; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(start(spec, folder, *hooks), 0)[1])


def start(spec: Any, folder: Path, *hooks: Hook) -> int:
    """The number of a process that does the run, forked from this one."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        # Python 3.12 warns where there are threads: none of torch's works now.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            # As each command does: torch makes a forked process's pool of threads anew at the first
            # of this, unguarded, and transformers loads weights in several: "Invalid thread pool!"
            torch.set_num_threads(torch.get_num_threads())
            with pytest.MonkeyPatch.context() as patch:
                _keep_weights(patch, folder)
                for hook in hooks:
                    hook(patch)
                execute(spec, folder, Clock())
            code = 0
        except Interrupted as interrupted:
            print(interrupted, file=sys.stderr)
            code = interrupted.exit_code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def _keep_weights(patch: pytest.MonkeyPatch, folder: Path) -> None:
    train_all, report = train._Trainer.train, train._Trainer.report

    def keep(trainer: train._Trainer, name: str) -> None:
        parts = trainer.engine.own_parts(trainer.training.model)
        save_file({name: part.contiguous() for name, part in parts.items()}, folder / name)

    def train_and_keep(trainer: train._Trainer, *arguments: Any, **options: Any) -> None:
        train_all(trainer, *arguments, **options)
        resumed_at = max(trainer.progress.resumed_at_steps, default=0)
        # Else an earlier process has kept them, and was ended with the best epoch's in their place.
        if trainer.progress.num_steps > resumed_at or not (folder / LAST).exists():
            keep(trainer, LAST)

    def report_and_keep(trainer: train._Trainer) -> None:
        report(trainer)
        keep(trainer, REPORTED)

    patch.setattr(train._Trainer, "train", train_and_keep)
    patch.setattr(train._Trainer, "report", report_and_keep)


def finish(spec: Any, folder: Path, *hooks: Hook) -> Record:
    """The record of a start that reaches its end; it is believed, and no checkpoint is left."""
    assert sit(spec, folder, *hooks) == 0
    record = read_record(folder / "record.json")
    assert doubts(record, spec, folder) == []
    assert not (folder / "checkpoints").exists()
    return record


def saved(folder: Path) -> list[str]:
    """The names of the whole checkpoints of a run, the oldest first."""
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def assert_same(folder: Path, other: Path) -> None:
    """Weights, history, samples and record are bitwise the same, but for times."""
    for file in (LAST, REPORTED):
        weights, others = load_file(folder / file), load_file(other / file)
        assert weights.keys() == others.keys()
        different = [name for name in weights if not torch.equal(weights[name], others[name])]
        assert different == []
    assert _lines(folder) == _lines(other)
    assert (folder / "samples.jsonl").read_text() == (other / "samples.jsonl").read_text()
    assert _found(folder) == _found(other)


def _lines(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "history.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "step_s"} for line in lines]


def _found(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "record.json").read_text())
    record["missing"].pop("throughput", None)
    return {key: value for key, value in record.items() if key not in TIMED}
