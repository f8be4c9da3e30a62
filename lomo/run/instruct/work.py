"""A run that trains on instructions with their answers, and is scored on held-out ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lomo.engines.single import Single
from lomo.model.weights import load_tokenizer, num_rows
from lomo.record.clock import Clock
from lomo.record.schema import InstructTraining
from lomo.record.tracking import History
from lomo.run.findings import Findings
from lomo.run.instruct.perplexity import AnswerScorer
from lomo.run.instruct.saved import save_tuned
from lomo.run.loop import Course, Work, train_and_score
from lomo.run.prepare import prepare_model
from lomo.run.resume.checkpoints import origin_of
from lomo.run.resume.state import Progress
from lomo.specs import InstructSpec
from lomo.tasks.answers import Answers, encode_answers
from lomo.tasks.batches import Batch, epoch_batches
from lomo.tasks.instructions import draw
from lomo.tasks.tokens import text_encoder


def work(
    spec: InstructSpec,
    folder: Path,
    engine: Single,
    clock: Clock,
    history: History,
    findings: Findings,
) -> None:
    """Trains on the spec's instructions and scores it; what is found goes to `findings`."""
    # Data first: what can't be read or scored stops the run before any weight is loaded.
    drawn = draw(
        Path(spec.data_path),
        num_train=spec.num_train,
        num_dev=spec.num_dev,
        num_test=spec.num_test,
        seed=spec.sample_seed,
    )
    encoder = text_encoder(load_tokenizer(spec.model_path), spec.model_path)
    documents = {"train": drawn.train, "dev": drawn.dev, "test": drawn.test}
    rows = num_rows(spec.model_path)
    parts = {
        name: encode_answers(encoder, items, max_length=spec.max_length, num_rows=rows, name=name)
        for name, items in documents.items()
        if items
    }
    prepared = prepare_model(spec, engine, findings, seed=spec.seed)
    findings.missing["memory"] = "measured in runs of their own"
    sha256 = findings.model.weights_sha256 if findings.model else None
    train_and_score(
        Work(spec, folder, engine, clock, history, findings),
        prepared,
        _course(spec, parts, num_repeated=drawn.num_repeated, pad_id=encoder.end_id),
        AnswerScorer(spec, engine, prepared.model, parts, pad_id=encoder.end_id),
        origin_of(spec, engine.device, sha256, documents, parts["train"].examples),
        keeps_best=spec.selection == "dev" or spec.tuned_path is not None,
    )
    if spec.tuned_path is not None and findings.training is not None:
        with clock.phase("save"):
            saved = save_tuned(prepared.model, spec, encoder.tokenizer, engine.device)
        findings.training = findings.training.model_copy(update={"saved": saved})


def _course(
    spec: InstructSpec, parts: Mapping[str, Answers], *, num_repeated: int, pad_id: int
) -> Course:
    train = parts["train"]

    def batches(epoch: int) -> Iterator[Batch]:
        return epoch_batches(
            train.examples,
            batching=spec.batching,
            batch_size=spec.batch_size,
            seed=spec.seed,
            epoch=epoch,
            pad_id=pad_id,
        )

    def told(values: dict[str, Any], progress: Progress) -> InstructTraining:
        padded = sum(step.num_padded_tokens for step in progress.timed)
        return InstructTraining(
            **values,
            num_padding_tokens=padded - values["num_tokens"],
            num_answer_tokens=sum(
                len(example.tokens) - example.num_prompt_tokens for example in train.examples
            ),
            num_left_out=train.num_left_out,
            num_repeated=num_repeated,
        )

    return Course(len(train.examples), train.num_cut, batches, told)
