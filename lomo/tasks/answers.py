"""From instructions to tokens, and to batches of examples that are about as long as each other.

The loss is on the answer and the end token alone, as in a task's training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from lomo.errors import UserError
from lomo.tasks.batches import Batch, Example, collate
from lomo.tasks.instructions import Instruction
from lomo.tasks.tokens import Encoder, check_tokens

# Batches whose examples are sorted by length together: many enough that few are padded, and few
# enough that an epoch has all lengths at all times.
WINDOW = 32


@dataclass(frozen=True)
class Answers:
    """A part of the data as tokens: its examples, and the numbers of their items in the file.

    num_left_out: items whose prompt leaves no room for an answer.
    """

    examples: list[Example]
    numbers: list[int]
    num_left_out: int

    @property
    def num_cut(self) -> int:
        """Examples whose answer lost its end, and with it the end token."""
        return sum(example.is_cut for example in self.examples)


def encode_answers(
    encoder: Encoder,
    items: Sequence[Instruction],
    *,
    max_length: int,
    num_rows: int,
    name: str,
) -> Answers:
    """The items as examples of at most `max_length` tokens: a long answer loses its end.

    num_rows: of the model's embedding. Raises UserError for tokens that it has no row for, and
    where no item of the part `name` has room for an answer.
    """
    examples, numbers = [], []
    for item in items:
        encoded = encoder.encode(item.prompt, [item.output])
        where = f"item {item.number} of the file, in {name}"
        check_tokens(encoder, encoded, num_rows=num_rows, where=where)
        tokens = [*encoded.prompt, *encoded.answers[0], encoder.end_id]
        if len(encoded.prompt) < max_length:
            is_cut = len(tokens) > max_length
            examples.append(Example(tokens[:max_length], len(encoded.prompt), is_cut))
            numbers.append(item.number)
    if not examples:
        raise UserError(
            f"no item of {name} has room for an answer behind its prompt",
            where="max_length",
            allowed=f"more tokens than a prompt has; it is {max_length}",
            fix="raise max_length, or give items with shorter prompts",
        )
    return Answers(examples, numbers, len(items) - len(examples))


def batches_by_length(
    examples: Sequence[Example], *, batch_size: int, seed: int, epoch: int, pad_id: int
) -> Iterator[Batch]:
    """One epoch's batches, in an order that seed, epoch and lengths give; one may be short.

    Examples are shuffled, sorted by length within each window of WINDOW batches, and cut into
    batches, which are shuffled.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(examples), generator=generator).tolist()
    batches = []
    for start in range(0, len(order), WINDOW * batch_size):
        window = order[start : start + WINDOW * batch_size]
        window.sort(key=lambda index: len(examples[index].tokens))
        batches += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
    for number in torch.randperm(len(batches), generator=generator).tolist():
        yield collate([examples[index] for index in batches[number]], pad_id=pad_id)
