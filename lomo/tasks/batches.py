"""From a task's documents to batches of tokens, in one order for all methods.

Prompts are rendered by lm-eval and split into tokens as for scoring.
Letters: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from lomo.errors import UserError
from lomo.specs import Batching
from lomo.tasks.tokens import Encoded, Encoder, check_tokens

if TYPE_CHECKING:
    from lm_eval.api.task import Task

IGNORED = -100  # the label that torch's cross entropy leaves out
# Batches whose examples are sorted by length together: many enough that few are padded, and few
# enough that an epoch has all lengths at all times.
WINDOW = 32


@dataclass(frozen=True)
class Example:
    """One training example: prompt, right answer, end of sequence."""

    tokens: list[int]
    num_prompt_tokens: int
    is_cut: bool = False  # its prompt was too long


@dataclass(frozen=True)
class Batch:
    """Right-padded tokens of some examples. Labels are set on answer and end tokens only."""

    input_ids_BS: torch.Tensor
    attention_mask_BS: torch.Tensor
    labels_BS: torch.Tensor

    @cached_property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int(self.attention_mask_BS.sum())

    @cached_property
    def num_targets(self) -> int:
        """Tokens that the loss counts (the first position predicts nothing)."""
        return int((self.labels_BS[:, 1:] != IGNORED).sum())

    def to(self, device: str) -> Batch:
        """The batch on `device`. Counted here first: counting on a GPU makes the host wait."""
        moved = Batch(
            self.input_ids_BS.to(device),
            self.attention_mask_BS.to(device),
            self.labels_BS.to(device),
        )
        moved.__dict__.update(num_tokens=self.num_tokens, num_targets=self.num_targets)
        return moved


@dataclass(frozen=True)
class Room:
    """What an example has to fit in."""

    max_length: int  # tokens
    num_rows: int  # of the model's embedding
    passage: str | None  # the field with which the prompt begins, and which a cut may shorten


def encode(
    encoder: Encoder,
    task: Task,
    documents: Sequence[dict[str, object]],
    *,
    room: Room,
    name: str = "train",
) -> list[Example]:
    """The documents as examples of at most `max_length` tokens: long passages lose their left end.

    That is two tokens of the prompt less than lm-eval keeps when it scores, for the end token.
    Raises UserError for what `check` refuses, which names the part `name` of the data.
    """
    examples = []
    short: list[tuple[int, str]] = []
    for document, encoded, where in _encoded(encoder, task, documents, room, name):
        target = [*encoded.answers[task.doc_to_target(document)], encoder.end_id]
        short += _lacking(encoded, room.max_length - len(target), where)
        prompt = encoded.prompt[-max(1, room.max_length - len(target)) :]
        examples.append(Example(prompt + target, len(prompt), len(prompt) < len(encoded.prompt)))
    _refuse(short, len(examples), room)
    return examples


def check(encoder: Encoder, task: Task, *, room: Room, name: str) -> None:
    """Raises UserError for a document of the task that can't be scored.

    Its question and answers do not fit, or it gets tokens that the model has no row for, or that
    no score tells apart.
    """
    short: list[tuple[int, str]] = []
    for _, encoded, where in _encoded(encoder, task, task.eval_docs, room, name):
        # One more than fits the model: the last token is scored, and never read.
        num_kept = room.max_length + 1 - max(map(len, encoded.answers))
        short += _lacking(encoded, num_kept, where)
    _refuse(short, len(task.eval_docs), room)


def _encoded(
    encoder: Encoder, task: Task, documents: Iterable[dict[str, object]], room: Room, name: str
) -> Iterator[tuple[dict[str, object], Encoded, str]]:
    """Each document with its tokens, and where it is, so that it can be found in its file."""
    for number, document in enumerate(documents):
        prompt: str = task.fewshot_context(document, 0)
        answers = [task.config.target_delimiter + choice for choice in task.doc_to_choice(document)]
        passage = str(document[room.passage]) if room.passage else ""
        num_free = len(passage) if prompt.startswith(passage) else 0
        encoded = encoder.encode(prompt, answers, num_free=num_free)
        question = prompt.removesuffix("\nAnswer:")[-60:]
        where = f"example {number} of {name} ({question!r})"
        check_tokens(encoder, encoded, num_rows=room.num_rows, where=where)
        yield document, encoded, where


def _lacking(encoded: Encoded, num_kept: int, where: str) -> list[tuple[int, str]]:
    """How many tokens are too few for the example's question and answer, if any are."""
    lacking = max(1, encoded.num_needed) - num_kept
    return [(lacking, where)] if lacking > 0 else []


def _refuse(short: Sequence[tuple[int, str]], num_examples: int, room: Room) -> None:
    """Raises one UserError for all examples whose question and answer do not fit."""
    if not short:
        return
    lacking, where = max(short)
    raise UserError(
        f"question and answer do not fit, even without a passage, in {len(short)} of "
        f"{num_examples} examples; most is needed by {where}",
        where="max_length",
        allowed=f"at least {room.max_length + lacking}, it is {room.max_length}",
        fix="raise max_length, or take such examples out"
        + ("" if room.passage else "; of this task's prompt nothing may be cut"),
    )


def collate(examples: Sequence[Example], *, pad_id: int) -> Batch:
    """The examples as one batch, padded on the right to the longest."""
    tokens = [torch.tensor(example.tokens) for example in examples]
    labels = [
        torch.tensor(
            [IGNORED] * example.num_prompt_tokens + example.tokens[example.num_prompt_tokens :]
        )
        for example in examples
    ]
    return Batch(
        pad_sequence(tokens, batch_first=True, padding_value=pad_id),
        pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
        pad_sequence(labels, batch_first=True, padding_value=IGNORED),
    )


def epoch_batches(
    examples: Sequence[Example],
    *,
    batching: Batching,
    batch_size: int,
    seed: int,
    epoch: int,
    pad_id: int,
) -> Iterator[Batch]:
    """One epoch's batches, in an order that seed and epoch give; one may be short.

    shuffled: examples at random; the last batch is the short one. by_length: shuffled, sorted by
    length within each window of WINDOW batches, and cut into batches, which are shuffled.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(examples), generator=generator).tolist()
    if batching == "by_length":
        # Stable, so that examples of one length stay as they were shuffled.
        for start in range(0, len(order), WINDOW * batch_size):
            window = slice(start, start + WINDOW * batch_size)
            order[window] = sorted(order[window], key=lambda index: len(examples[index].tokens))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if batching == "by_length":
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    for chosen in batches:
        yield collate([examples[index] for index in chosen], pad_id=pad_id)


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    """The batch in up to `count` parts along B, for gradient accumulation."""
    parts = zip(
        batch.input_ids_BS.chunk(count),
        batch.attention_mask_BS.chunk(count),
        batch.labels_BS.chunk(count),
        strict=True,
    )
    return [Batch(*part) for part in parts]


def random_batch(
    *, vocabulary: int, batch_size: int, sequence_length: int, seed: int, device: str
) -> Batch:
    """Random tokens without padding, all of them targets: what a measured step is given."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (batch_size, sequence_length), generator=generator)
    return Batch(tokens, torch.ones_like(tokens), tokens.clone()).to(device)
