"""One process's share of a training: goes on from what was saved, saves, and ends in order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lomo.run.resume.checkpoints import Checkpoints
from lomo.run.resume.state import TrainingState, generator_states
from lomo.system.interrupts import Asked, Interrupted, noted


class _AskedToEnd(Exception):
    """Within an evaluation."""


class Sitting:
    """Where a training begins, its safe points, and its end when the process is asked to end.

    saves: whether it saves at all; else a signal ends it as any process. All ranks call the same
    together.
    """

    def __init__(self, training: TrainingState, checkpoints: Checkpoints, *, saves: bool) -> None:
        self.training, self.checkpoints = training, checkpoints
        self._saves, self._asked = saves, Asked()

    @contextmanager
    def noting_signals(self) -> Iterator[None]:
        """Inside, SIGTERM and Ctrl-C end the training at its next safe point."""
        if not self._saves:
            yield
            return
        with noted() as self._asked:
            yield

    def begin(self) -> dict[str, Any] | None:
        """Puts back the last good checkpoint; the states of the generators, None without one.

        Those are for `restore_generators`, just before the next step.
        """
        if not self._saves:
            return None
        training = self.training
        with training.clock.phase("load"):
            kept = self.checkpoints.latest()
            if kept is None:
                return None
            generators = training.put_back(kept.content, kept.tensors)
        progress = training.progress
        progress.resumed_at_steps.append(progress.num_steps)
        if training.engine.rank == 0:
            print(f"goes on after step {progress.num_steps}, from {kept.name}", file=sys.stderr)
        return generators

    def safe_point(self) -> None:
        """Saves if it is time. Raises Interrupted, after a save, if the process was asked to end.

        Between two of them a step was taken, or an evaluation.
        """
        if not self._saves:
            return
        agreed = self.training.engine.agreed
        if agreed(self._asked.number is not None or self.checkpoints.is_due):
            problem = self._save(generator_states(self.training.engine.device))
            if agreed(self._asked.number is not None):  # also while it was saved
                raise self._interrupted(problem)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """An evaluation inside is left as soon as the process was asked to end.

        What is saved then is the moment before it. Raises Interrupted.
        """
        if not self._saves:
            yield
            return
        engine = self.training.engine
        before = generator_states(engine.device)

        def look(*_: Any) -> None:
            if engine.agreed(self._asked.number is not None):
                raise _AskedToEnd

        handle = self.training.model.register_forward_pre_hook(look)
        try:
            yield
        except _AskedToEnd:
            raise self._interrupted(self._save(before)) from None
        finally:
            handle.remove()

    def _save(self, generators: dict[str, Any]) -> str | None:
        training = self.training
        with training.clock.phase("save"):
            return self.checkpoints.save(training.progress, lambda: training.gather(generators))

    def _interrupted(self, problem: str | None) -> Interrupted:
        # Another rank was told first.
        name = signal.Signals(number := self._asked.number or signal.SIGTERM).name
        how = "saved" if problem is None else f"not saved ({problem})"
        step = self.training.progress.num_steps
        told = f"ended by {name} after step {step}, {how}"
        return Interrupted(f"{told}: started again, it goes on from what is saved", number)
