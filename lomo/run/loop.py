"""The training loop: one loop, one data order and one clock for all methods and all examples.

What is trained on (`Course`) and what scores an epoch (`Scorer`) are given to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from lomo.engines.single import Single, StepResult, training_step
from lomo.methods import Prepared
from lomo.record.clock import NUM_WARMUP_STEPS, Clock, TimedStep, after_warmup, summarise
from lomo.record.schema import Evaluation, Training
from lomo.record.tracking import History
from lomo.run.applied import WatchedSteps, steps_of_training
from lomo.run.findings import Deadline, Findings, RunStopped, synchronise
from lomo.run.resume.checkpoints import FOLDER, Checkpoints
from lomo.run.resume.sitting import Sitting
from lomo.run.resume.state import Best, Progress, TrainingState, restore_generators
from lomo.specs import Split, TrainSpec
from lomo.system.files import write_json_lines
from lomo.tasks.batches import Batch, micro_batches

Samples = list[dict[str, Any]]


class NothingTold(Exception):
    """A model's scores say nothing of it; the message says why."""


class Scorer(Protocol):
    """What scores the model at an epoch's end."""

    def score(self, split: Split, *, step: int, epoch: int) -> tuple[Evaluation, Samples]:
        """The evaluation of `split`, and one entry an example. Raises NothingTold."""


@dataclass(frozen=True)
class Course:
    """What is trained on. batches: of an epoch, counted from 1; their number is that of steps.

    told: the record's block, from the values that all trainings have.
    """

    num_examples: int
    num_cut: int
    batches: Callable[[int], Iterator[Batch]]
    told: Callable[[dict[str, Any], Progress], Training]


@dataclass(frozen=True)
class Work:
    """What a run is given in its process; see `lomo.run.execute.execute`."""

    spec: TrainSpec
    folder: Path
    engine: Single
    clock: Clock
    history: History
    findings: Findings


def train_and_score(
    work: Work,
    prepared: Prepared,
    course: Course,
    scorer: Scorer,
    origin: dict[str, str],
    *,
    keeps_best: bool,
) -> None:
    """Trains, scores each epoch and reports; what is found goes to the findings.

    keeps_best: the weights of the best epoch are those of the model afterwards.
    """
    training = _state(work, prepared, course)
    loop = TrainingLoop(work, _sitting(work, training, origin), course, scorer, keeps_best)
    work.clock.loaded()
    if not prepared.optimizers:
        missing = ("training", "throughput", "applied")
        work.findings.missing.update(dict.fromkeys(missing, "nothing is trained"))
        loop.evaluate(work.spec.selection, step=0, epoch=0)
        loop.report()
        return
    with loop.sitting.noting_signals():
        with work.clock.phase("train"):
            loop.train()
        loop.report()


def _state(work: Work, prepared: Prepared, course: Course) -> TrainingState:
    """What the training works with, at its beginning."""
    spec = work.spec
    num_steps = spec.epochs * math.ceil(course.num_examples / spec.batch_size)
    return TrainingState(
        engine=work.engine,
        model=prepared.model,
        optimizers=[optimizer for optimizer, _ in prepared.optimizers],
        schedules=[
            schedule(spec.schedule, optimizer, ratio, num_steps)
            for optimizer, ratio in prepared.optimizers
        ],
        progress=Progress(evaluations=work.findings.evaluations),
        clock=work.clock,
        history=work.history,
    )


def _sitting(work: Work, training: TrainingState, origin: dict[str, str]) -> Sitting:
    interval_s = work.spec.checkpoint_interval_s
    # A rank other than the first works in a folder of its own, below the run's.
    run_folder = work.folder.parent if training.engine.rank else work.folder
    checkpoints = Checkpoints(
        run_folder / FOLDER, training.engine, origin, math.inf if interval_s is None else interval_s
    )
    saves = bool(training.optimizers) and interval_s is not None
    return Sitting(training, checkpoints, saves=saves)


class TrainingLoop:
    """One training from where it begins, or goes on, to what it reports."""

    def __init__(
        self, work: Work, sitting: Sitting, course: Course, scorer: Scorer, keeps_best: bool
    ) -> None:
        self.spec, self.findings, self.folder = work.spec, work.findings, work.folder
        self.sitting, self.training = sitting, sitting.training
        self.engine, self.clock = self.training.engine, self.training.clock
        self.course, self.scorer, self.keeps_best = course, scorer, keeps_best
        self.deadline = Deadline(self.clock, self.spec.timeout_s, self.engine.agreed)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.training.progress

    def train(self) -> None:
        """All epochs, an evaluation after each, and the facts of the training."""
        spec = self.spec
        training = self.training
        num_steps = spec.epochs * math.ceil(self.course.num_examples / spec.batch_size)
        self.watched = WatchedSteps(
            *(spec, self.engine, training.model, training.optimizers, training.history),
            *(self.findings, steps_of_training(num_steps)),
        )
        training.model.train()
        generators = self._go_on()
        try:
            for epoch in range(max(1, self.progress.epoch), spec.epochs + 1):
                batches = self.course.batches(epoch)
                if epoch > self.progress.epoch:
                    self.progress.begin(epoch)
                self._train_epoch(batches, generators)
                generators = None
        finally:
            self._note()

    def _go_on(self) -> dict[str, Any] | None:
        """Takes over what an earlier process has saved; the states of its generators."""
        generators = self.sitting.begin()
        findings, progress = self.findings, self.progress
        findings.evaluations = progress.evaluations
        findings.resumed_at_steps = progress.resumed_at_steps
        findings.checkpoints_refused = self.sitting.checkpoints.refused
        if progress.best is not None and progress.best.samples:
            self._write_samples(progress.best.samples)
        return generators

    def _train_epoch(self, batches: Iterator[Batch], generators: dict[str, Any] | None) -> None:
        """What is left of an epoch's batches, and its evaluation."""
        at = self.progress
        for _ in islice(batches, at.batch):
            pass  # an earlier process has trained on it
        # Last of all: making a batch, or what makes them, may draw from the generators.
        if generators is not None:
            restore_generators(generators)
        for batch in batches:
            loss = self.step(batch, at.num_steps + 1, at.epoch)
            at.losses[-1].append(loss)
            at.batch += 1
            self.sitting.safe_point()
        if not at.evaluated:
            self.evaluate(self.spec.selection, step=at.num_steps, epoch=at.epoch)
            at.evaluated = True
            self.sitting.safe_point()

    def step(self, batch: Batch, step: int, epoch: int) -> float:
        """One timed optimizer step; its loss. Raises RunStopped if the loss is not finite."""
        self.deadline.check(step - 1 or None)
        self.findings.step = step
        started = synchronise(self.engine.device)
        with self.watched.step(step):
            result: StepResult = training_step(
                self.training.model,
                self.training.optimizers,
                micro_batches(batch.to(self.engine.device), self.spec.gradient_accumulation),
                max_grad_norm=self.spec.max_grad_norm,
                engine=self.engine,
            )
        rates = [schedule.get_last_lr()[0] for schedule in self.training.schedules]
        self.progress.num_skipped_steps += result.skipped
        for schedule in self.training.schedules:
            schedule.step()
        seconds = synchronise(self.engine.device) - started
        self.progress.timed.append(TimedStep(seconds, batch.num_tokens, batch.input_ids_BS.numel()))
        self.training.history.add(
            "step",
            step=step,
            epoch=epoch,
            loss=result.loss,
            # The method's own is the last; LoRA+LOMO has the base weights' before it.
            learning_rate=rates[-1],
            **({"lomo_learning_rate": rates[0]} if len(rates) > 1 else {}),
            grad_norm=result.grad_norm,
            num_tokens=batch.num_tokens,
            step_s=seconds,
        )
        if not math.isfinite(result.loss):
            raise RunStopped("diverged", f"the loss is {result.loss}", step=step)
        return result.loss

    def evaluate(self, split: Split, *, step: int, epoch: int) -> Samples:
        """Scores `split`, keeps the weights if it is the best so far; per-example results."""
        evaluation, samples = self._score(split, step=step, epoch=epoch)
        self.findings.evaluations.append(evaluation)
        self.training.history.add(
            "evaluation",
            step=step,
            epoch=epoch,
            split=split,
            metric=evaluation.metric,
            value=evaluation.value,
        )
        # Of equals the latest: it has seen more, and the last epoch needs no weights kept.
        best = self.progress.best
        if split == self.spec.selection and self.engine.agreed(
            best is None or evaluation.goodness >= best.evaluation.goodness
        ):
            best = self.progress.best = Best(evaluation)
            if self.keeps_best and 0 < epoch < self.spec.epochs:
                best.file, best.sha256 = self._keep(epoch)
            if self.spec.selection == "test":
                best.samples = samples
                self._write_samples(samples)
        return samples

    def _score(self, split: Split, *, step: int, epoch: int) -> tuple[Evaluation, Samples]:
        self.deadline.check(step or None)
        problem = None
        with self.clock.phase("evaluate"), self.sitting.interruptible():
            try:
                evaluation, samples = self.scorer.score(split, step=step, epoch=epoch)
            except NothingTold as told:
                problem = str(told)
        if self.engine.agreed(problem is not None):
            told_elsewhere = "the scores on another rank tell nothing"
            raise RunStopped("diverged", problem or told_elsewhere, step=step or None)
        return evaluation, samples

    def report(self) -> None:
        """Names the evaluation that the protocol reports; under `dev`, test is scored only now."""
        assert self.progress.best is not None
        best = self.progress.best.evaluation
        if self.progress.best.file is not None:
            self._restore(self.progress.best)
        if self.spec.selection == "dev":
            samples = self.evaluate("test", step=best.step, epoch=best.epoch)
            self._write_samples(samples)
            best = self.findings.evaluations[-1]
        self.findings.result = best
        if self.findings.training is not None:
            self.findings.training = self.findings.training.model_copy(
                update={"selected_epoch": best.epoch, "missing": {}}
            )

    def _write_samples(self, samples: Samples) -> None:
        write_json_lines(self.folder / "samples.jsonl", samples)

    def _keep(self, epoch: int) -> tuple[str, str]:
        with self.clock.phase("save"):
            parts = self.engine.own_parts(self.training.model)
            return self.sitting.checkpoints.keep_best(epoch, parts)

    def _restore(self, best: Best) -> None:
        assert best.file is not None
        with self.clock.phase("load"):
            kept = self.sitting.checkpoints.best_weights(best.file)
            self.engine.load_parts(self.training.model, kept)

    def _note(self) -> None:
        progress = self.progress
        epochs = [epoch for epoch in progress.losses if epoch]
        loss_values = {
            "first_loss": epochs[0][0] if epochs else None,
            "last_loss": epochs[-1][-1] if epochs else None,
            "first_epoch_loss": _mean(epochs[0]) if epochs else None,
            "last_epoch_loss": _mean(epochs[-1]) if epochs else None,
        }
        missing = {name: "no step was finished" for name, v in loss_values.items() if v is None}
        values = {
            "num_steps": progress.num_steps,
            "num_epochs": len(epochs),
            "num_train_examples": self.course.num_examples,
            "num_cut": self.course.num_cut,
            "num_skipped_steps": progress.num_skipped_steps,
            "num_test_seen": self.findings.num_test_seen,
            "num_dev_shared": self.findings.num_dev_shared,
            "num_tokens": sum(step.num_tokens for step in progress.timed),
            "selected_epoch": None,
            "missing": {**missing, "selected_epoch": "the training did not reach its end"},
            **loss_values,
        }
        self.findings.training = self.course.told(values, progress)
        resumed_at = progress.resumed_at_steps
        if len(after_warmup(progress.num_steps, NUM_WARMUP_STEPS, resumed_at)) >= 2:
            self.findings.throughput = summarise(
                progress.timed,
                num_warmup_steps=NUM_WARMUP_STEPS,
                world_size=self.engine.world_size,
                resumed_at=resumed_at,
            )
        else:
            self.findings.missing["throughput"] = f"{progress.num_steps} steps are too few to time"


def schedule(kind: str, optimizer: Optimizer, warmup_ratio: float, num_steps: int) -> LRScheduler:
    """Linear warm-up over its share of the steps, then linear decay to 0, or constant."""
    num_warmup = math.ceil(warmup_ratio * num_steps)
    if kind == "constant":
        return get_constant_schedule_with_warmup(optimizer, num_warmup)
    return get_linear_schedule_with_warmup(optimizer, num_warmup, num_steps)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
