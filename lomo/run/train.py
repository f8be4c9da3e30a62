"""The training loop: one loop, one data order and one clock for all methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from lomo.engines.single import Single, StepResult, training_step
from lomo.methods import Prepared
from lomo.model.weights import load_tokenizer, num_rows
from lomo.record.clock import NUM_WARMUP_STEPS, Clock, TimedStep, after_warmup, summarise
from lomo.record.schema import Training
from lomo.record.tracking import History
from lomo.run import evaluate
from lomo.run.applied import WatchedSteps, steps_of_training
from lomo.run.findings import Deadline, Findings, RunStopped, synchronise
from lomo.run.prepare import prepare_model
from lomo.run.resume.checkpoints import FOLDER, Checkpoints, origin_of
from lomo.run.resume.sitting import Sitting
from lomo.run.resume.state import Best, Progress, TrainingState, restore_generators
from lomo.specs import TrainSpec
from lomo.tasks.batches import Batch, Example, Room, check, encode, epoch_batches, micro_batches
from lomo.tasks.superglue import files_of, num_seen, num_shared, split_documents
from lomo.tasks.tokens import text_encoder

# All of so many examples tie in a model that says nothing, and by chance in none: in 16 bits one in
# some twenty does.
NUM_TIES_FOR_SURE = 8


def work(
    spec: TrainSpec,
    folder: Path,
    engine: Single,
    clock: Clock,
    history: History,
    findings: Findings,
) -> None:
    """Trains on the spec's task and scores it; what is found goes to `findings`."""
    # Data first: what can't be read or scored stops the run before any weight is loaded.
    documents = split_documents(
        Path(spec.data_path),
        spec.task,
        num_train=spec.num_train,
        num_dev=spec.num_dev,
        num_test=spec.num_test,
        seed=spec.sample_seed,
    )
    encoder = text_encoder(load_tokenizer(spec.model_path), spec.model_path)
    splits: dict[Any, None] = dict.fromkeys((spec.selection, "test"))
    tasks = {split: evaluate.load_task(spec, split) for split in splits}
    room = Room(spec.max_length, num_rows(spec.model_path), files_of(spec.task).passage)
    examples = encode(encoder, tasks["test"], documents["train"], room=room)
    for split, task in tasks.items():
        check(encoder, task, room=room, name=split)
    prepared = prepare_model(spec, engine, findings, seed=spec.seed)
    lm = evaluate.wrap(prepared.model, encoder, spec, engine.device)
    findings.num_test_seen = num_seen(documents["train"], documents["test"])
    findings.num_dev_shared = num_shared(documents["dev"], documents["test"], spec.task)
    findings.missing["memory"] = "measured in runs of their own"

    sha256 = findings.model.weights_sha256 if findings.model else None
    origin = origin_of(spec, engine.device, sha256, documents, examples)
    training = _training(spec, engine, clock, history, findings, prepared, len(examples))
    sitting = _sitting(spec, training, folder, origin)
    clock.loaded()
    trainer = _Trainer(spec, findings, sitting, lm, tasks, folder)
    if not prepared.optimizers:
        missing = ("training", "throughput", "applied")
        findings.missing.update(dict.fromkeys(missing, "nothing is trained"))
        trainer.evaluate(spec.selection, step=0, epoch=0)
        trainer.report()
        return
    with sitting.noting_signals():
        with clock.phase("train"):
            trainer.train(examples, pad_id=encoder.end_id)
        trainer.report()


def _training(
    spec: TrainSpec,
    engine: Single,
    clock: Clock,
    history: History,
    findings: Findings,
    prepared: Prepared,
    num_examples: int,
) -> TrainingState:
    """What the training works with, at its beginning."""
    num_steps = spec.epochs * math.ceil(num_examples / spec.batch_size)
    return TrainingState(
        engine=engine,
        model=prepared.model,
        optimizers=[optimizer for optimizer, _ in prepared.optimizers],
        schedules=[
            schedule(spec.schedule, optimizer, ratio, num_steps)
            for optimizer, ratio in prepared.optimizers
        ],
        progress=Progress(evaluations=findings.evaluations),
        clock=clock,
        history=history,
    )


def _sitting(
    spec: TrainSpec, training: TrainingState, folder: Path, origin: dict[str, str]
) -> Sitting:
    interval_s = spec.checkpoint_interval_s
    # A rank other than the first works in a folder of its own, below the run's.
    run_folder = folder.parent if training.engine.rank else folder
    checkpoints = Checkpoints(
        run_folder / FOLDER, training.engine, origin, math.inf if interval_s is None else interval_s
    )
    saves = bool(training.optimizers) and interval_s is not None
    return Sitting(training, checkpoints, saves=saves)


class _Trainer:
    """One training from where it begins, or goes on, to what it reports."""

    def __init__(
        self,
        spec: TrainSpec,
        findings: Findings,
        sitting: Sitting,
        lm: Any,
        tasks: dict[str, Any],
        folder: Path,
    ) -> None:
        self.spec, self.findings, self.sitting = spec, findings, sitting
        self.training = sitting.training
        self.engine, self.clock = self.training.engine, self.training.clock
        self.lm, self.tasks, self.folder = lm, tasks, folder
        self.deadline = Deadline(self.clock, spec.timeout_s, self.engine.agreed)

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return self.training.progress

    def train(self, examples: list[Example], *, pad_id: int) -> None:
        """All epochs, an evaluation after each, and the facts of the training."""
        spec = self.spec
        training = self.training
        num_steps = spec.epochs * math.ceil(len(examples) / spec.batch_size)
        self.watched = WatchedSteps(
            *(spec, self.engine, training.model, training.optimizers, training.history),
            *(self.findings, steps_of_training(num_steps)),
        )
        training.model.train()
        generators = self._go_on()
        try:
            for epoch in range(max(1, self.progress.epoch), spec.epochs + 1):
                batches = epoch_batches(
                    examples,
                    batch_size=spec.batch_size,
                    seed=spec.seed,
                    epoch=epoch,
                    pad_id=pad_id,
                )
                if epoch > self.progress.epoch:
                    self.progress.begin(epoch)
                self._train_epoch(batches, generators)
                generators = None
        finally:
            self._note(examples)

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

    def evaluate(self, split: Any, *, step: int, epoch: int) -> list[dict[str, Any]]:
        """Scores `split`, keeps the weights if it is the best so far; per-example results."""
        self.deadline.check(step or None)
        with self.clock.phase("evaluate"), self.sitting.interruptible():
            evaluation, samples = evaluate.score(
                self.lm, self.tasks[split], split=split, step=step, epoch=epoch
            )
        scores = [score for sample in samples for score in sample["log_likelihoods"]]
        if self.engine.agreed(not all(map(math.isfinite, scores))):
            raise RunStopped("diverged", "a score is not finite", step=step or None)
        tied = evaluation.num_ties == evaluation.num_examples >= NUM_TIES_FOR_SURE
        if self.engine.agreed(tied):
            raise RunStopped(
                "diverged",
                f"each of the {evaluation.num_ties} examples of {split} has the same score for its "
                "best candidates: the model tells nothing of them",
                step=step or None,
            )
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
            best is None or evaluation.value >= best.evaluation.value
        ):
            best = self.progress.best = Best(evaluation)
            if self.spec.selection == "dev" and 0 < epoch < self.spec.epochs:
                best.file, best.sha256 = self._keep(epoch)
            if self.spec.selection == "test":
                best.samples = samples
                self._write_samples(samples)
        return samples

    def report(self) -> None:
        """Names the evaluation that the protocol reports; under `dev`, test is scored only now."""
        assert self.progress.best is not None
        best = self.progress.best.evaluation
        if self.spec.selection == "dev":
            if best.epoch not in (0, self.spec.epochs):
                self._restore(self.progress.best)
            samples = self.evaluate("test", step=best.step, epoch=best.epoch)
            self._write_samples(samples)
            best = self.findings.evaluations[-1]
        self.findings.result = best
        if self.findings.training is not None:
            self.findings.training = self.findings.training.model_copy(
                update={"selected_epoch": best.epoch, "missing": {}}
            )

    def _write_samples(self, samples: list[dict[str, Any]]) -> None:
        evaluate.write_samples(self.folder / "samples.jsonl", samples)

    def _keep(self, epoch: int) -> tuple[str, str]:
        with self.clock.phase("save"):
            parts = self.engine.own_parts(self.training.model)
            return self.sitting.checkpoints.keep_best(epoch, parts)

    def _restore(self, best: Best) -> None:
        assert best.file is not None
        with self.clock.phase("load"):
            kept = self.sitting.checkpoints.best_weights(best.file)
            self.engine.load_parts(self.training.model, kept)

    def _note(self, examples: list[Example]) -> None:
        progress = self.progress
        epochs = [epoch for epoch in progress.losses if epoch]
        loss_values = {
            "first_loss": epochs[0][0] if epochs else None,
            "last_loss": epochs[-1][-1] if epochs else None,
            "first_epoch_loss": _mean(epochs[0]) if epochs else None,
            "last_epoch_loss": _mean(epochs[-1]) if epochs else None,
        }
        missing = {name: "no step was finished" for name, v in loss_values.items() if v is None}
        self.findings.training = Training(
            num_steps=progress.num_steps,
            num_epochs=len(epochs),
            num_train_examples=len(examples),
            num_cut=sum(example.is_cut for example in examples),
            num_skipped_steps=progress.num_skipped_steps,
            num_test_seen=self.findings.num_test_seen,
            num_dev_shared=self.findings.num_dev_shared,
            num_tokens=sum(step.num_tokens for step in progress.timed),
            selected_epoch=None,
            missing={**missing, "selected_epoch": "the training did not reach its end"},
            **loss_values,
        )
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
