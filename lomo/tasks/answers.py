"""From instructions to tokens: prompts with their answers.

The loss is on the answer and the end token alone, as in a task's training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lomo.errors import UserError
from lomo.tasks.batches import Example
from lomo.tasks.instructions import Instruction
from lomo.tasks.tokens import Encoder, check_tokens


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
