"""The step that decides whether a run fits: what to predict for each run of a plan."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from lomo import engines, methods
from lomo.errors import UserError
from lomo.memory.predicted.peaks import PeakByBatch
from lomo.memory.predicted.predict import predict
from lomo.memory.predicted.study import Asked, fingerprint_of_prediction, stands
from lomo.model.architecture import entry_architecture
from lomo.model.registry import ModelEntry
from lomo.specs import AblationSpec, MeasureSpec, PeerSpec, TrainSpec
from lomo.study.plan import Plan
from lomo.system import processes
from lomo.system.files import write_text

# Hyper-parameters that move weights and take no memory.
_RATES = ("learning_rate", "warmup_ratio", "lomo_learning_rate", "lomo_warmup_ratio")


@dataclass(frozen=True)
class StepAsked(Asked):
    """The prediction of a run's step; runs that differ in rates, task or seed share one."""

    kind: ClassVar[str] = "step"

    @property
    def name(self) -> str:
        """Its file below the folder of predictions, without the ending."""
        spec = self.spec
        digest = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:8]
        setting = f"{spec.sequence_length}x{spec.batch_size}-{spec.dtype}-{spec.engine}"
        return f"steps/{spec.model}/{spec.method}/{setting}-{digest}"


def step_of(run: TrainSpec | MeasureSpec, kind: Literal["cpu", "cuda"]) -> StepAsked | None:
    """What to predict for a run on a device of that kind; None where no step is taken.

    A training is asked for with its longest batch: `max_length` tokens in every row.
    """
    described = methods.describe(run.method)
    if not described.trains:
        return None
    defaults = described.hyper().model_dump()
    neutral: dict[str, Any] = {
        **{"study": "", "run_id": "", "model_path": run.model, "device": kind},
        **{"timeout_s": None, "num_threads": 1, "num_warmup_steps": 1, "num_timed_steps": 2},
        "hyper": run.hyper | {key: defaults[key] for key in _RATES if key in defaults},
    }
    if isinstance(run, PeerSpec):
        spec: MeasureSpec = run.model_copy(update={**neutral, "variant": "", "round": 1})
    elif isinstance(run, AblationSpec):
        spec = run.model_copy(update={**neutral, "cell": "", "compile": "none"})
    elif isinstance(run, MeasureSpec):
        spec = run.model_copy(update=neutral)
    else:
        shared = set(MeasureSpec.model_fields) & set(TrainSpec.model_fields) - {"kind"}
        given = run.model_dump(include=shared) | neutral
        given |= {
            "batch_size": rows_a_device(run),
            "sequence_length": run.max_length,
        }
        spec = MeasureSpec(**given)
    return StepAsked("steps", spec)


def rows_a_device(run: TrainSpec) -> int:
    """Rows of a micro-batch on one device."""
    return math.ceil(math.ceil(run.batch_size / run.gradient_accumulation) / run.num_devices)


def predict_steps(
    steps: Iterable[StepAsked],
    plan: Plan,
    out: Path,
    say: Callable[[str], None],
    *,
    num_processes: int = 1,
) -> dict[str, dict[str, Any]]:
    """Peak, account and reason of each step, by name; written as one JSON file each below `out`.

    A file that stands with the same fingerprint is kept; what can't be predicted has a reason and
    no peak. Raises RuntimeError where a process fails.
    """
    asked = list(steps)
    waiting = [step for step in asked if not stands(step, plan.models[step.spec.model], out)]

    def write(index: int) -> str:
        step = waiting[index]
        return _write(step, plan.models[step.spec.model], out)

    for _, line in processes.results(write, len(waiting), num_processes):
        say(line)
    paths = {step.name: out / f"{step.name}.json" for step in asked}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}


def _write(step: StepAsked, entry: ModelEntry, out: Path) -> str:
    started = time.perf_counter()
    found: dict[str, Any] = {"peak_bytes": None, "account": None, "reason": None}
    try:
        engines.check(step.spec.engine, step.spec.num_devices, step.spec.method, where="")
        found["peak_bytes"], found["account"] = _peak(step.spec, entry)
    except UserError as error:
        found["reason"] = str(error)
    seconds = time.perf_counter() - started
    fingerprint = fingerprint_of_prediction(step, entry)
    made = {"fingerprint": fingerprint, "spec": step.spec.model_dump(mode="json"), **found}
    write_text(out / f"{step.name}.json", json.dumps(made, indent=1) + "\n")
    gc.collect()  # a simulated model has cycles
    return f"{step.name}  {found['reason'] or found['account']}  ({seconds:.1f} s)"


def _peak(spec: MeasureSpec, entry: ModelEntry) -> tuple[int, str]:
    """Bytes, and how they were predicted. Of a GPU's deep models a few layers tell of all."""
    architecture = entry_architecture(entry)
    once = spec.gradient_accumulation == 1  # unrolling knows a step of one forward
    if spec.device == "cuda" and spec.engine != "zero3" and once:
        peak = PeakByBatch(architecture, spec)
        return peak(spec.batch_size), peak.account
    made = predict(architecture, spec, device="cpu" if spec.device == "cpu" else "cuda")
    return made.ledger.peak_bytes, made.account
