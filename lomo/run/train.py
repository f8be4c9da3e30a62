"""A run that trains on one task and is scored on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lomo.engines.single import Single
from lomo.model.weights import load_tokenizer, num_rows
from lomo.record.clock import Clock
from lomo.record.schema import Evaluation, Training
from lomo.record.tracking import History
from lomo.run import evaluate
from lomo.run.findings import Findings
from lomo.run.loop import Course, NothingTold, Samples, Work, train_and_score
from lomo.run.prepare import prepare_model
from lomo.run.resume.checkpoints import origin_of
from lomo.specs import Split, TaskSpec
from lomo.tasks.batches import Batch, Example, Room, check, encode, epoch_batches
from lomo.tasks.superglue import files_of, num_seen, num_shared, split_documents
from lomo.tasks.tokens import text_encoder

# All of so many examples tie in a model that says nothing, and by chance in none: in 16 bits one in
# some twenty does.
NUM_TIES_FOR_SURE = 8


def work(
    spec: TaskSpec,
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
    train_and_score(
        Work(spec, folder, engine, clock, history, findings),
        prepared,
        _course(spec, examples, pad_id=encoder.end_id),
        _TaskScorer(lm, tasks),
        origin_of(spec, engine.device, sha256, documents, examples),
        keeps_best=spec.selection == "dev",
    )


def _course(spec: TaskSpec, examples: list[Example], *, pad_id: int) -> Course:
    def batches(epoch: int) -> Iterator[Batch]:
        return epoch_batches(
            examples,
            batching=spec.batching,
            batch_size=spec.batch_size,
            seed=spec.seed,
            epoch=epoch,
            pad_id=pad_id,
        )

    return Course(
        num_examples=len(examples),
        num_cut=sum(example.is_cut for example in examples),
        batches=batches,
        told=lambda values, progress: Training(**values),
    )


class _TaskScorer:
    """Scores the splits of a task by lm-eval."""

    def __init__(self, lm: evaluate.QuietLM, tasks: dict[Any, Any]) -> None:
        self.lm, self.tasks = lm, tasks

    def score(self, split: Split, *, step: int, epoch: int) -> tuple[Evaluation, Samples]:
        """Accuracy of `split`. Raises NothingTold where no score is finite, or all are alike."""
        evaluation, samples = evaluate.score(
            self.lm, self.tasks[split], split=split, step=step, epoch=epoch
        )
        scores = [score for sample in samples for score in sample["log_likelihoods"]]
        if not all(map(math.isfinite, scores)):
            raise NothingTold("a score is not finite")
        if evaluation.num_ties == evaluation.num_examples >= NUM_TIES_FOR_SURE:
            raise NothingTold(
                f"each of the {evaluation.num_ties} examples of {split} has the same score for its "
                "best candidates: the model tells nothing of them"
            )
        return evaluation, samples
