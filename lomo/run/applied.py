"""Which steps of a run are watched for what its 16-bit weights take of them, and what is told."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from lomo.engines.single import Single
from lomo.record.applied import EVENT, group_of
from lomo.record.tracking import History
from lomo.run.findings import Findings
from lomo.specs import MeasureSpec, PeerSpec, TrainSpec

# Of a training, evenly over its steps: so many, and an eighth at most. A watched step takes up to
# 5 % longer where steps are of a tenth of a second (benchmarks/applied_cost.py).
MOST_STEPS = 16
MOST_OF_STEPS = 1 / 8


def steps_of_training(num_steps: int) -> frozenset[int]:
    """The steps of a training that are watched, counted from 1."""
    number = min(MOST_STEPS, math.ceil(MOST_OF_STEPS * num_steps))
    return frozenset(math.ceil((2 * i + 1) * num_steps / (2 * number)) for i in range(number))


class WatchedSteps:
    """Watches some steps of a run and tells its history what came of each.

    Optimizers say themselves what they intend, so that the code of one defines no run of another.

    Where that can't be done or means nothing, `findings` gets the reason and no step is watched.
    """

    def __init__(
        self,
        spec: TrainSpec | MeasureSpec,
        engine: Single,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        history: History,
        findings: Findings,
        steps: Collection[int],
    ) -> None:
        self._history, self._steps = history, steps
        self._watched: Any = None
        named = model.named_parameters()
        trained: dict[Tensor, str] = {p: group_of(name) for name, p in named if p.requires_grad}
        holders: list[Any] = [o for o in optimizers if any(p.element_size() == 2 for p in _held(o))]
        reason = why_not_watched(spec, engine, holders, steps)
        if reason is not None:
            findings.missing["applied"] = reason
            return
        findings.missing["applied"] = "no watched step was reached, or it was skipped"
        (holder,) = holders
        own = {parameter: trained[parameter] for parameter in _held(holder) if parameter in trained}
        self._watched = holder.applied_steps(own)
        self._num_parameters: dict[str, int] = {}
        for parameter, group in own.items():
            number = self._num_parameters.get(group, 0) + parameter.numel()
            self._num_parameters[group] = number

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Within: the step of that number is taken; it is watched if it is one of those."""
        if self._watched is None or number not in self._steps:
            yield
            return
        with self._watched.watching():
            yield
        sums = self._watched.read()
        groups = {
            name: {
                **of._asdict(),
                "num_watched": self._watched.num_watched[name],
                "num_parameters": self._num_parameters[name],
            }
            for name, of in sums.items()
            if math.isfinite(of.applied_intended) and math.isfinite(of.intended_squares)
        }
        if groups:
            self._history.add(EVENT, step=number, intended=self._watched.intended, groups=groups)


def why_not_watched(
    spec: TrainSpec | MeasureSpec,
    engine: Single,
    holders: Sequence[Any],
    steps: Collection[int],
) -> str | None:
    """Why no step of a run is watched, or None; `holders`: the optimizers of 16-bit weights."""
    if spec.dtype == "float32":
        return "float32 weights take every step"
    if isinstance(spec, PeerSpec):
        return "of peers only the cost of a step is compared"
    if not holders:
        return "no 16-bit weight is trained"
    if spec.engine != "single" or engine.world_size > 1:
        return "not taken where weights are spread over devices"
    if spec.hyper.get("update") == "gemm":
        return "a product that updates tells no step"
    others = [type(o).__name__ for o in holders if not hasattr(o, "applied_steps")]
    if others or len(holders) > 1:
        return f"the steps of {' and '.join(others) or 'two optimizers'} can't be watched"
    return None if steps else "no step before the clock starts"


def _held(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
