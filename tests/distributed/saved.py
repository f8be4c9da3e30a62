"""One rank: `torchrun -m tests.distributed.saved ENGINE FOLDER`.

Trainings are saved after a step, dropped, and gone on with from the files. What each has found goes
to FOLDER/<rank>.pt.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lomo.engines.single import Single, training_step
from lomo.record.clock import Clock, TimedStep
from lomo.record.tracking import History
from lomo.run.loop import schedule
from lomo.run.resume.checkpoints import Checkpoints
from lomo.run.resume.state import (
    Progress,
    TrainingState,
    generator_states,
    restore_generators,
)
from lomo.tasks.batches import micro_batches
from tests.distributed.cases import ALL, LORA, NUM_STEPS, Case, batch_of, prepare
from tests.distributed.rank import give_all


def _cases() -> list[Case]:
    """Every method, and what some keep beside weights: scales, streams, fp32 copies."""
    clipped, dropped = {"max_grad_norm": 0.5}, {"hyper": {"dropout": 0.3}}
    cases = [Case(method, clipped) for method in ALL if method not in LORA]
    cases += [Case(method, clipped, engines=("fsdp2",), **dropped) for method in LORA]
    cases.append(Case("adalomo", direct={"loss_scale": "dynamic"}))
    sixteen_bit = {"settings": {"dtype": torch.bfloat16}}
    cases.append(Case("lomo", hyper={"rounding": "stochastic"}, **sixteen_bit))
    cases.append(Case("adamw", **sixteen_bit))
    return cases


CASES = {case.name: case for case in _cases()}
STOPS = (1, 3, 4)  # steps after which the run is killed, once each


def saved(case: Case, engine: Single, folder: Path) -> dict[str, Any]:
    """This rank's parts after all steps: at one go, and with a kill after each of STOPS."""
    with_kills = {}
    for stop in STOPS:
        place = folder / f"{case.name}-{stop}"
        _sit(case, engine, place, range(stop))
        with_kills[stop] = _sit(case, engine, place, range(stop, NUM_STEPS))
    return {"whole": _sit(case, engine, folder / case.name, range(NUM_STEPS)), **with_kills}


def _sit(case: Case, engine: Single, folder: Path, steps: range) -> dict[str, Tensor]:
    # Another seed in each process: what it draws before it goes on has no say.
    torch.manual_seed(steps.start)
    prepared = prepare(case, engine)
    prepared.model.train()
    optimizers = [optimizer for optimizer, _ in prepared.optimizers]
    training = TrainingState(
        engine=engine,
        model=prepared.model,
        optimizers=optimizers,
        schedules=[schedule("linear", optimizer, 0.5, 2 * NUM_STEPS) for optimizer in optimizers],
        progress=Progress(),
        clock=Clock(),
        history=History("unit", "unit", {}, folder / f"rank{engine.rank}"),
    )
    checkpoints = Checkpoints(folder, engine, {}, 1.0)
    if steps.start:
        kept = checkpoints.latest()
        assert kept is not None and checkpoints.refused == []
        generators = training.put_back(kept.content, kept.tensors)
        assert training.progress.num_steps == steps.start
        restore_generators(generators)
    for step in steps:
        result = training_step(
            prepared.model,
            optimizers,
            micro_batches(batch_of(step), 1),
            max_grad_norm=case.options.get("max_grad_norm"),
            engine=engine,
        )
        for each in training.schedules:
            each.step()
        training.progress.timed.append(TimedStep(1.0, 1, 1))
        training.history.add("step", step=step, loss=result.loss)
    problem = checkpoints.save(
        training.progress, lambda: training.gather(generator_states(engine.device))
    )
    assert problem is None, problem
    parts = {name: part.clone() for name, part in engine.own_parts(prepared.model).items()}
    training.history.close(None)
    return parts


def _battery(engine: Single, name: str, folder: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    own = {key: case for key, case in CASES.items() if name in case.engines}
    return {key: partial(saved, case, engine, folder) for key, case in own.items()}


if __name__ == "__main__":
    give_all(_battery)
