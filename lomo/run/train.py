"""The training loop: one loop, one data order and one clock for all methods."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_constant_schedule_with_warmup, get_linear_schedule_with_warmup

from lomo.engines.single import Single, StepResult, training_step
from lomo.methods import Prepared
from lomo.model.weights import load_tokenizer, num_rows
from lomo.record.clock import Clock, TimedStep, summarise
from lomo.record.schema import Evaluation, Training
from lomo.record.tracking import History
from lomo.run import evaluate
from lomo.run.applied import WatchedSteps, steps_of_training
from lomo.run.findings import Deadline, Findings, RunStopped, synchronise
from lomo.run.prepare import prepare_model
from lomo.specs import TrainSpec
from lomo.system.files import whole
from lomo.tasks.batches import Batch, Example, Room, check, encode, epoch_batches, micro_batches
from lomo.tasks.superglue import files_of, num_seen, split_documents
from lomo.tasks.tokens import text_encoder

# All of so many examples tie in a model that says nothing, and by chance in none: in 16 bits one in
# some twenty does.
NUM_TIES_FOR_SURE = 8
NUM_WARMUP_STEPS = 3  # dropped from tokens/s: first steps allocate and choose kernels


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
    clock.loaded()
    findings.missing["memory"] = "measured in runs of their own"

    trainer = _Trainer(spec, engine, clock, history, findings, prepared, lm, tasks, folder)
    try:
        if prepared.optimizers:
            with clock.phase("train"):
                trainer.train(examples, pad_id=encoder.end_id)
        else:
            missing = ("training", "throughput", "applied")
            findings.missing.update(dict.fromkeys(missing, "nothing is trained"))
            trainer.evaluate(spec.selection, step=0, epoch=0)
        trainer.report()
    finally:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)


class _Trainer:
    """The state of one training: model, optimizers and their schedules, and the best epoch."""

    def __init__(
        self,
        spec: TrainSpec,
        engine: Single,
        clock: Clock,
        history: History,
        findings: Findings,
        prepared: Prepared,
        lm: Any,
        tasks: dict[str, Any],
        folder: Path,
    ) -> None:
        self.spec, self.engine, self.clock = spec, engine, clock
        self.device = engine.device
        self.history, self.findings = history, findings
        self.model: nn.Module = prepared.model
        self.optimizers: list[Optimizer] = [optimizer for optimizer, _ in prepared.optimizers]
        self.warmup_ratios = [ratio for _, ratio in prepared.optimizers]
        self.lm, self.tasks = lm, tasks
        self.best: Evaluation | None = None
        self.best_file = folder / "checkpoints" / "best.safetensors"
        self.deadline = Deadline(clock, spec.timeout_s, engine.agreed)
        self.num_skipped_steps = 0

    def train(self, examples: list[Example], *, pad_id: int) -> None:
        """All epochs, an evaluation after each, and the facts of the training."""
        spec = self.spec
        num_steps = spec.epochs * math.ceil(len(examples) / spec.batch_size)
        schedules = [
            schedule(spec.schedule, optimizer, ratio, num_steps)
            for optimizer, ratio in zip(self.optimizers, self.warmup_ratios, strict=True)
        ]
        self.watched = WatchedSteps(
            *(spec, self.engine, self.model, self.optimizers, self.history, self.findings),
            steps_of_training(num_steps),
        )
        losses: list[list[float]] = []
        timed: list[TimedStep] = []
        self.model.train()
        try:
            for epoch in range(1, spec.epochs + 1):
                losses.append([])
                batches = epoch_batches(
                    examples,
                    batch_size=spec.batch_size,
                    seed=spec.seed,
                    epoch=epoch,
                    pad_id=pad_id,
                )
                for batch in batches:
                    step = len(timed) + 1
                    loss = self.step(batch, schedules, step, epoch, timed)
                    losses[-1].append(loss)
                self.evaluate(spec.selection, step=len(timed), epoch=epoch)
        finally:
            self._note(losses, timed, examples)

    def step(
        self,
        batch: Batch,
        schedules: list[LRScheduler],
        step: int,
        epoch: int,
        timed: list[TimedStep],
    ) -> float:
        """One timed optimizer step; its loss. Raises RunStopped if the loss is not finite."""
        self.deadline.check(step - 1 or None)
        self.findings.step = step
        started = synchronise(self.device)
        with self.watched.step(step):
            result: StepResult = training_step(
                self.model,
                self.optimizers,
                micro_batches(batch.to(self.device), self.spec.gradient_accumulation),
                max_grad_norm=self.spec.max_grad_norm,
                engine=self.engine,
            )
        rates = [schedule.get_last_lr()[0] for schedule in schedules]
        self.num_skipped_steps += result.skipped
        for schedule in schedules:
            schedule.step()
        seconds = synchronise(self.device) - started
        timed.append(TimedStep(seconds, batch.num_tokens, batch.input_ids_BS.numel()))
        self.history.add(
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
        with self.clock.phase("evaluate"):
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
        self.history.add(
            "evaluation",
            step=step,
            epoch=epoch,
            split=split,
            metric=evaluation.metric,
            value=evaluation.value,
        )
        # Of equals the latest: it has seen more, and the last epoch needs no weights kept.
        if split == self.spec.selection and self.engine.agreed(
            self.best is None or evaluation.value >= self.best.value
        ):
            self.best = evaluation
            if self.spec.selection == "dev" and 0 < epoch < self.spec.epochs:
                self._keep()
            if self.spec.selection == "test":
                self._write_samples(samples)
        return samples

    def report(self) -> None:
        """Names the evaluation that the protocol reports; under `dev`, test is scored only now."""
        best = self.best
        assert best is not None
        if self.spec.selection == "dev":
            if best.epoch not in (0, self.spec.epochs):
                self._restore()
            samples = self.evaluate("test", step=best.step, epoch=best.epoch)
            self._write_samples(samples)
            best = self.findings.evaluations[-1]
        self.findings.result = best
        if self.findings.training is not None:
            self.findings.training = self.findings.training.model_copy(
                update={"selected_epoch": best.epoch, "missing": {}}
            )

    def _write_samples(self, samples: list[dict[str, Any]]) -> None:
        evaluate.write_samples(self.best_file.parent.parent / "samples.jsonl", samples)

    def _keep(self) -> None:
        with self.clock.phase("save"):
            with whole(self.best_file) as temporary:
                save_file(self.engine.own_parts(self.model), temporary)  # each rank its own

    def _restore(self) -> None:
        with self.clock.phase("load"):
            self.engine.load_parts(self.model, load_file(self.best_file, device=self.device))

    def _note(
        self, losses: list[list[float]], timed: list[TimedStep], examples: list[Example]
    ) -> None:
        epochs = [epoch for epoch in losses if epoch]
        loss_values = {
            "first_loss": epochs[0][0] if epochs else None,
            "last_loss": epochs[-1][-1] if epochs else None,
            "first_epoch_loss": _mean(epochs[0]) if epochs else None,
            "last_epoch_loss": _mean(epochs[-1]) if epochs else None,
        }
        missing = {name: "no step was finished" for name, v in loss_values.items() if v is None}
        self.findings.training = Training(
            num_steps=len(timed),
            num_epochs=len(epochs),
            num_train_examples=len(examples),
            num_cut=sum(example.is_cut for example in examples),
            num_skipped_steps=self.num_skipped_steps,
            num_test_seen=self.findings.num_test_seen,
            num_tokens=sum(step.num_tokens for step in timed),
            selected_epoch=None,
            missing={**missing, "selected_epoch": "the training did not reach its end"},
            **loss_values,
        )
        if len(timed) >= NUM_WARMUP_STEPS + 2:
            self.findings.throughput = summarise(
                timed, num_warmup_steps=NUM_WARMUP_STEPS, world_size=self.engine.world_size
            )
        else:
            self.findings.missing["throughput"] = f"{len(timed)} steps are too few to time"


def schedule(kind: str, optimizer: Optimizer, warmup_ratio: float, num_steps: int) -> LRScheduler:
    """Linear warm-up over its share of the steps, then linear decay to 0, or constant."""
    num_warmup = math.ceil(warmup_ratio * num_steps)
    if kind == "constant":
        return get_constant_schedule_with_warmup(optimizer, num_warmup)
    return get_linear_schedule_with_warmup(optimizer, num_warmup, num_steps)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
