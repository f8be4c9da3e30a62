"""Instructions as tokens: the loss on answers alone, what does not fit, and batches by length."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from lomo.errors import UserError
from lomo.model.weights import load_tokenizer, num_rows
from lomo.tasks.answers import Answers, encode_answers
from lomo.tasks.batches import IGNORED, WINDOW, Example, collate, epoch_batches
from lomo.tasks.instructions import Instruction, read_instructions
from lomo.tasks.tokens import Encoder, text_encoder


@pytest.fixture(scope="module")
def encoder(model_folder: Path) -> Encoder:
    return text_encoder(load_tokenizer(str(model_folder)), str(model_folder))


def encoded(encoder: Encoder, items: Any, max_length: int = 240) -> Answers:
    return encode_answers(encoder, items, max_length=max_length, num_rows=400, name="train")


def test_the_loss_is_on_the_answer_and_the_end(encoder: Encoder, instructions: Path) -> None:
    items = read_instructions(instructions)
    answers = encoded(encoder, items, 500)
    assert answers.num_cut == answers.num_left_out == 0
    for item, example in zip(items, answers.examples, strict=True):
        labels = collate([example], pad_id=encoder.end_id).labels_BS[0]
        asked = labels[labels != IGNORED].tolist()
        assert asked[-1] == encoder.end_id
        assert encoder.tokenizer.decode(asked[:-1]).strip() == item.output
        assert encoder.tokenizer.decode(example.tokens[:-1]) == item.prompt + item.output


def test_a_long_answer_loses_its_end_and_a_long_prompt_its_item(encoder: Encoder) -> None:
    short = Instruction(1, "Name it.", "", "A dove.")
    long_answer = Instruction(2, "Name it.", "", "A dove. " * 100)
    long_prompt = Instruction(3, "Name it. " * 100, "", "A dove.")
    answers = encoded(encoder, [short, long_answer, long_prompt], 160)
    assert (answers.numbers, answers.num_cut, answers.num_left_out) == ([1, 2], 1, 1)
    whole, cut = answers.examples
    assert whole.tokens[-1] == encoder.end_id and not whole.is_cut
    # No end token: the answer does not end there.
    assert len(cut.tokens) == 160 and cut.is_cut and cut.tokens[-1] != encoder.end_id
    with pytest.raises(UserError, match="no item of train has room"):
        encoded(encoder, [long_prompt], 160)


def test_a_token_without_a_row_is_refused(encoder: Encoder) -> None:
    item = Instruction(5, "Name it.", "", "A dove.")
    with pytest.raises(UserError, match="item 5 of the file, in dev"):
        encode_answers(encoder, [item], max_length=240, num_rows=50, name="dev")


def test_a_tokenizer_that_drops_characters_still_tells_where_the_answer_is(
    test_data: Path,
) -> None:
    """The real LLaMA has no token for #, and its offsets are then too far left."""
    folder = str(test_data / "weights" / "tinystories-656k")
    encoder = text_encoder(load_tokenizer(folder), folder)
    items = read_instructions(test_data / "instruct" / "alpaca_sample.json")
    answers = encode_answers(
        encoder, items, max_length=4096, num_rows=num_rows(folder), name="train"
    )
    for item, example in zip(items, answers.examples, strict=True):
        found = encoder.tokenizer.decode(example.tokens[example.num_prompt_tokens : -1])
        known = "".join(c for c in item.output if c.isascii() and c.isalpha())
        assert "".join(c for c in found if c.isascii() and c.isalpha()) == known, item.number


def lengths(number: int) -> list[Example]:
    """Examples told apart by their first token."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.randint(5, 200, (number,), generator=generator).tolist()
    return [Example([i + 1, *[7] * size], 1) for i, size in enumerate(sizes)]


def batches(examples: list[Example], *, seed: int = 3, epoch: int = 1, size: int = 4) -> Any:
    return list(
        epoch_batches(
            examples, batching="by_length", batch_size=size, seed=seed, epoch=epoch, pad_id=0
        )
    )


@pytest.mark.parametrize("number", [1, 3, 4, 128, 129, 300])
def test_each_example_stands_once_in_an_epoch(number: int) -> None:
    found = batches(lengths(number))
    firsts = Counter(int(row[0]) for batch in found for row in batch.input_ids_BS)
    assert firsts == Counter(range(1, number + 1))
    assert len(found) == -(-number // 4)
    assert sum(len(batch.input_ids_BS) < 4 for batch in found) == (number % 4 > 0)


def test_seed_and_epoch_give_the_order() -> None:
    examples = lengths(300)

    def order(**changes: int) -> list[list[int]]:
        return [batch.input_ids_BS[:, 0].tolist() for batch in batches(examples, **changes)]

    assert order() == order()
    assert order() != order(epoch=2) and order() != order(seed=4)


def test_sorting_leaves_little_padding_and_no_order_of_lengths() -> None:
    examples = lengths(4 * WINDOW * 5)
    found = batches(examples)

    def padding(batches: Any) -> float:
        padded = sum(batch.input_ids_BS.numel() for batch in batches)
        return 1 - sum(batch.num_tokens for batch in batches) / padded

    shuffled = list(
        epoch_batches(examples, batching="shuffled", batch_size=4, seed=3, epoch=1, pad_id=0)
    )
    assert padding(found) < 0.05 < 0.3 < padding(shuffled)
    widths = torch.tensor([float(batch.input_ids_BS.shape[1]) for batch in found])
    places = torch.arange(len(widths), dtype=torch.float)
    assert abs(float(torch.corrcoef(torch.stack([widths, places]))[0, 1])) < 0.2
