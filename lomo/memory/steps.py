"""The step that decides whether a run fits: what to predict for each run of a plan."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any, Literal

from lomo import methods
from lomo.memory.study import Asked
from lomo.plan import MeasureSpec, TrainSpec
from lomo.specs import PeerSpec

# Hyper-parameters that move weights and take no memory.
_RATES = ("learning_rate", "warmup_ratio", "lomo_learning_rate", "lomo_warmup_ratio")


@dataclass(frozen=True)
class StepAsked(Asked):
    """The prediction of a run's step; runs that differ in rates, task or seed share one."""

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
