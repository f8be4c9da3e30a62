"""All that a training's continuation depends on, gathered after a step and put back."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lomo.engines.single import Single
from lomo.record import schema
from lomo.record.clock import Clock, TimedStep
from lomo.record.tracking import History
from lomo.run.resume.tensors import Part, pack, unpack


@dataclass
class Best:
    """The best epoch so far: its evaluation, and the file of this rank's weights if they are kept.

    samples: its per-example results, where they are what is reported.
    """

    evaluation: schema.Evaluation
    file: str | None = None
    sha256: str = ""
    samples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Progress:
    """How far a training is, and what it has found.

    epoch: the one that is trained, 0 before the first; batch: how many of its batches are done;
    evaluated: whether its evaluation is done, too. losses: of each epoch's steps.
    """

    epoch: int = 0
    batch: int = 0
    evaluated: bool = True
    losses: list[list[float]] = field(default_factory=list)
    timed: list[TimedStep] = field(default_factory=list)
    num_skipped_steps: int = 0
    evaluations: list[schema.Evaluation] = field(default_factory=list)
    best: Best | None = None
    resumed_at_steps: list[int] = field(default_factory=list)

    def begin(self, epoch: int) -> None:
        """Nothing of `epoch` is done."""
        self.epoch, self.batch, self.evaluated = epoch, 0, False
        self.losses.append([])

    @property
    def num_steps(self) -> int:
        """Steps that are done."""
        return len(self.timed)

    @property
    def name(self) -> str:
        """Of the moment; later ones sort behind earlier ones."""
        return f"step-{self.num_steps:08d}{'-scored' if self.evaluated else ''}"


@dataclass
class TrainingState:
    """What a training works with; `gather` and `put_back` are each other's inverse."""

    engine: Single
    model: nn.Module
    optimizers: Sequence[Optimizer]
    schedules: Sequence[LRScheduler]
    progress: Progress
    clock: Clock
    history: History

    def gather(self, generators: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything as JSON and tensors of this rank; `generators`: see `generator_states`.

        Raises Unkept for an optimizer whose state is not kept.
        """
        tensors = {f"weights/{n}": part for n, part in self.engine.own_parts(self.model).items()}
        state = {
            "optimizers": [_state_of(optimizer) for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "generators": generators,
        }
        content = {
            "state": pack(state, "state", tensors),
            "progress": TypeAdapter(Progress).dump_python(self.progress, mode="json"),
            "clock": self.clock.read().model_dump(),
            "history": self.history.text(),
        }
        return content, tensors

    def put_back(self, content: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """All but the generators, whose states it gives.

        Those are for `restore_generators`, just before the next step: what is made until then may
        draw from them.
        """
        self.engine.load_parts(self.model, _Below("weights/", tensors))
        state = unpack(content["state"], tensors)
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            _load_state(optimizer, kept)
        for schedule, kept in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(kept)
        self.clock.carry_on(schema.Clock.model_validate(content["clock"]))
        self.history.begin_with(content["history"])
        self.progress = TypeAdapter(Progress).validate_python(content["progress"])
        generators: dict[str, Any] = state["generators"]
        return generators


class _Below(Mapping[str, Tensor]):
    """The tensors whose names begin with `prefix`, without it; each is read when asked for."""

    def __init__(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        self._prefix, self._tensors = prefix, tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Any:
        return (n.removeprefix(self._prefix) for n in self._tensors if n.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _state_of(optimizer: Optimizer) -> dict[str, Any]:
    """Its state dict. DeepSpeed's optimizer has none: its masters, and what torch's holds of each.

    Its groups change with the schedule alone.
    """
    if not hasattr(optimizer, "engine"):
        return optimizer.state_dict()
    held: Any = optimizer.state
    groups = [
        {key: value for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    masters = list(held["masters"])
    return {
        "masters": [master.detach() for master in masters],
        "inner": [dict(held["inner"].get(master, {})) for master in masters],
        "groups": groups,
    }


@torch.no_grad()
def _load_state(optimizer: Optimizer, kept: dict[str, Any]) -> None:
    if hasattr(optimizer, "engine"):
        held: Any = optimizer.state
        for master, value, inner in zip(
            held["masters"], kept["masters"], kept["inner"], strict=True
        ):
            master.copy_(value)
            if inner:
                held["inner"][master] = inner
        for group, values in zip(optimizer.param_groups, kept["groups"], strict=True):
            group.update(values)
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in kept["state"].items():
        for name, value in values.items():
            if isinstance(value, Part):
                values[name] = value.spread_as(parameters[number])
    optimizer.load_state_dict(kept)


def generator_states(device: str) -> dict[str, Any]:
    """The states of all global generators that a step may draw from, on `device` and the host."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": _numpy_state(),
        "cpu": torch.get_rng_state(),
    }
    if device == "cuda":
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Any]) -> None:
    """Puts back what `generator_states` gave."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    # The global one: libraries draw from it.
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])


def _numpy_state() -> list[Any]:
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return [str(name), [int(key) for key in keys], *(_plain(value) for value in rest)]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
