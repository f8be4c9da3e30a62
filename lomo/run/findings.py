"""What a run finds while it works, what may stop it early, and the facts of its model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from lomo.model.registry import RANDOM_WEIGHTS
from lomo.record.clock import Clock
from lomo.record.schema import (
    Applied,
    Efficiency,
    Evaluation,
    Memory,
    ModelFacts,
    Status,
    Throughput,
    Training,
)


class RunStopped(Exception):
    """The run ends here, with a status that is a result."""

    def __init__(self, status: Status, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.status, self.step = status, step


@dataclass
class Findings:
    """What a run has found so far; what is None when it stops early was not reached."""

    model: ModelFacts | None = None
    training: Training | None = None
    evaluations: list[Evaluation] = field(default_factory=list)
    result: Evaluation | None = None
    throughput: Throughput | None = None
    efficiency: Efficiency | None = None
    memory: Memory | None = None
    applied: Applied | None = None
    missing: dict[str, str] = field(default_factory=dict)
    step: int | None = None
    num_test_seen: int = 0
    num_dev_shared: int = 0
    resumed_at_steps: list[int] = field(default_factory=list)
    checkpoints_refused: list[str] = field(default_factory=list)


@dataclass
class Deadline:
    """The time limit of a run, counted from the start of its process, with the work of earlier
    ones that it goes on from.

    `agreed` asks all ranks, so that they stop together.
    """

    clock: Clock
    timeout_s: float | None
    agreed: Callable[[bool], bool] = bool

    def check(self, step: int | None = None) -> None:
        """Raises RunStopped once the limit has passed."""
        if self.timeout_s is not None and self.agreed(self.clock.wall_s > self.timeout_s):
            raise RunStopped("timeout", f"the limit of {self.timeout_s:g} s has passed", step=step)


def synchronise(device: str) -> float:
    """The time in seconds, once the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def model_facts(model: torch.nn.Module, name: str, dtype: str, sha256: str | None) -> ModelFacts:
    """The facts of a prepared model; its parameters are counted once where they are tied."""
    parameters = list(model.parameters())
    seed = getattr(model.config, RANDOM_WEIGHTS, "unknown")
    return ModelFacts(
        name=name,
        architecture=str(getattr(model.config, "model_type", type(model).__name__)),
        num_parameters=sum(p.numel() for p in parameters),
        num_trainable_parameters=sum(p.numel() for p in parameters if p.requires_grad),
        parameters_bytes=sum(p.nbytes for p in parameters),
        largest_parameter_bytes=max(p.nbytes for p in parameters),
        tied_embeddings=len(list(model.named_parameters(remove_duplicate=False))) > len(parameters),
        dtype=dtype,
        weights_sha256=sha256,
        missing={} if sha256 else {"weights_sha256": f"random weights, seed {seed}"},
    )
