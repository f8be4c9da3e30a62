"""From a task's documents to batches of tokens, in one order for all methods.

Prompts are rendered and split into tokens by lm-eval itself, the same way as when it scores.
Letters: B batch, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

from lomo.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM

IGNORED = -100  # the label that torch's cross entropy leaves out


@dataclass(frozen=True)
class Example:
    """One training example: prompt, right answer, end of sequence."""

    tokens: list[int]
    num_prompt_tokens: int


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


def encode(
    lm: HFLM, task: Task, documents: Sequence[dict[str, object]], *, max_length: int
) -> list[Example]:
    """The documents as examples of at most `max_length` tokens: long prompts lose their left end.

    That is two tokens of the prompt less than lm-eval keeps when it scores, for the end token.
    Raises UserError for an answer that leaves no room for a prompt.
    """
    examples = []
    for document in documents:
        choices = task.doc_to_choice(document)
        answer = task.config.target_delimiter + choices[task.doc_to_target(document)]
        prompt, target = lm._encode_pair(task.fewshot_context(document, 0), answer)
        target = [*target, lm.tokenizer.eos_token_id]
        if len(target) >= max_length:
            raise UserError(
                f"an answer of {len(target)} tokens leaves no room for its prompt",
                where="max_length",
                allowed=f"more than {len(target)}, it is {max_length}",
            )
        prompt = prompt[len(target) - max_length :]
        examples.append(Example(prompt + target, len(prompt)))
    return examples


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
    examples: Sequence[Example], *, batch_size: int, seed: int, epoch: int, pad_id: int
) -> Iterator[Batch]:
    """One epoch's batches, in an order that seed and epoch give; the last may be short."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(examples), generator=generator).tolist()
    for start in range(0, len(order), batch_size):
        yield collate([examples[i] for i in order[start : start + batch_size]], pad_id=pad_id)


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
