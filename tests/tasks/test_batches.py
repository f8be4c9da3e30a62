"""Batches: trained on what is scored, labels on the answer alone, one order for all methods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lomo.errors import UserError
from lomo.model.weights import load_model, load_tokenizer
from lomo.run import evaluate
from lomo.specs import TrainSpec
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.tasks.batches import (
    IGNORED,
    Example,
    Room,
    check,
    collate,
    encode,
    epoch_batches,
    micro_batches,
    random_batch,
)
from lomo.tasks.superglue import TASKS, split_documents
from lomo.tasks.tokens import text_encoder

EXAMPLES = [Example(list(range(10 * n, 10 * n + n)), n - 2) for n in range(3, 12)]


@pytest.fixture(scope="module")
def lm(model_folder: Path) -> Any:
    return wrapped(model_folder)


def wrapped(folder: Path) -> Any:
    """lm-eval's model, with the encoder that training uses too."""
    model = load_model(str(folder), dtype="float32", attention="sdpa", device="cpu")
    encoder = text_encoder(load_tokenizer(str(folder)), str(folder))
    return evaluate.QuietLM(encoder, pretrained=model, device="cpu", max_length=200)


def room(max_length: int, passage: str | None = None) -> Room:
    return Room(max_length, num_rows=10_000, passage=passage)


def spec_of(study_dict: dict[str, Any], task: str) -> TrainSpec:
    section = {**study_dict["superglue"], "tasks": [task], "methods": ["lomo"]}
    study = {**study_dict, "superglue": section}
    plan = make_plan(Study.model_validate(study), source="unit.yaml")
    return next(spec for spec in plan.runs.values() if isinstance(spec, TrainSpec))


def documents_of(spec: TrainSpec) -> list[dict[str, Any]]:
    sizes = {"num_train": spec.num_train, "num_dev": spec.num_dev, "num_test": spec.num_test}
    folder = Path(spec.data_path)
    return split_documents(folder, spec.task, **sizes, seed=spec.sample_seed)["test"]


def scored(lm: Any, task: Any) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) tokens of the right answers, as lm-eval itself makes them."""
    seen: list[tuple[Any, list[int], list[int]]] = []

    def note(requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        seen.extend(requests)
        return [(0.0, False)] * len(requests)

    task.build_all_requests(rank=0, world_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "_loglikelihood_tokens", note)
        lm.loglikelihood(task.instances)
    right = [instance.idx == task.doc_to_target(instance.doc) for instance in task.instances]
    return [(c, a) for (_, c, a), is_right in zip(seen, right, strict=True) if is_right]


@pytest.mark.parametrize("task_name", TASKS)
def test_training_tokens_are_what_lm_eval_scores_and_the_end(
    lm: Any, study_dict: dict[str, Any], task_name: str
) -> None:
    check_tokens(lm, spec_of(study_dict, task_name))


@pytest.mark.parametrize("task_name", TASKS)
def test_the_same_holds_for_real_lines_and_a_real_tokenizer(
    test_data: Path, real_lm: Any, study_dict: dict[str, Any], task_name: str
) -> None:
    """This tokenizer puts a start token in front, which the generated ones do not."""
    spec = spec_of({**study_dict, "data": str(test_data / "superglue")}, task_name)
    check_tokens(real_lm, spec)


@pytest.fixture(scope="module")
def real_lm(test_data: Path) -> Any:
    return wrapped(test_data / "weights" / "tinystories-656k")


def check_tokens(lm: Any, spec: TrainSpec) -> None:
    task = evaluate.load_task(spec, "test")
    examples = encode(lm.encoder, task, documents_of(spec), room=room(10_000))
    expected = scored(lm, task)
    assert len(examples) == len(expected) == 16
    end = lm.encoder.end_id
    for example, (context, answer) in zip(examples, expected, strict=True):
        assert example.tokens == [*context, *answer, end]
        assert example.num_prompt_tokens == len(context)


@pytest.mark.parametrize(("task_name", "passage"), [("boolq", "passage"), ("multirc", "paragraph")])
def test_a_long_prompt_loses_the_start_of_its_passage_and_is_counted(
    lm: Any, study_dict: dict[str, Any], task_name: str, passage: str
) -> None:
    spec = spec_of(study_dict, task_name)
    task = evaluate.load_task(spec, "test")
    assert TASKS[task_name].passage == passage
    whole = encode(lm.encoder, task, documents_of(spec), room=room(10_000, passage))
    lengths = sorted(len(example.tokens) for example in whole)
    limit = lengths[len(lengths) // 2]
    cut = encode(lm.encoder, task, documents_of(spec), room=room(limit, passage))
    for long, short in zip(whole, cut, strict=True):
        assert short.tokens == long.tokens[-limit:]
        assert short.is_cut == (len(long.tokens) > limit) and not long.is_cut
        answer = long.tokens[long.num_prompt_tokens :]
        assert short.tokens[short.num_prompt_tokens :] == answer
    assert 0 < sum(example.is_cut for example in cut) < len(cut)


@pytest.mark.parametrize("task_name", TASKS)
def test_no_cut_takes_anything_but_the_passage(
    lm: Any, study_dict: dict[str, Any], task_name: str
) -> None:
    """The shortest room that is accepted holds just what follows the passage."""
    spec = spec_of(study_dict, task_name)
    task, passage = evaluate.load_task(spec, "test"), TASKS[task_name].passage
    document = documents_of(spec)[0]
    tail = task.fewshot_context(document, 0)
    answer = " " + task.doc_to_choice(document)[task.doc_to_target(document)]
    if passage is not None:
        assert tail.startswith(document[passage])
        tail = tail[len(document[passage]) :]
    needed = len(lm.tokenizer.encode(tail + answer)) + 1
    (example,) = encode(lm.encoder, task, [document], room=room(needed, passage))
    assert lm.tokenizer.decode(example.tokens[:-1]) == tail + answer
    with pytest.raises(UserError, match="do not fit.* 1 of 1 .*example 0 of train") as caught:
        encode(lm.encoder, task, [document], room=room(needed - 1, passage))
    assert caught.value.allowed == f"at least {needed}, it is {needed - 1}"


def test_what_can_not_be_scored_is_found_before_it_is(lm: Any, study_dict: dict[str, Any]) -> None:
    spec = spec_of(study_dict, "rte")
    task = evaluate.load_task(spec, "test")
    check(lm.encoder, task, room=room(100, "premise"), name="test")
    with pytest.raises(UserError, match="do not fit.* in 16 of 16 .* of test"):
        check(lm.encoder, task, room=room(12, "premise"), name="test")
    few = Room(200, num_rows=50, passage="premise")
    with pytest.raises(UserError, match="does not fit the model") as caught:
        check(lm.encoder, task, room=few, name="test")
    assert caught.value.where.endswith("tokenizer.json")
    assert "0 to 49" in str(caught.value.allowed)


def test_labels_stand_on_the_answer_and_the_end_alone() -> None:
    batch = collate(EXAMPLES, pad_id=0)
    for row, example in zip(batch.labels_BS.tolist(), EXAMPLES, strict=True):
        answer = example.tokens[example.num_prompt_tokens :]
        padding = [IGNORED] * (len(row) - len(example.tokens))
        assert row == [IGNORED] * example.num_prompt_tokens + answer + padding
    assert batch.num_targets == 2 * len(EXAMPLES)


def test_padding_is_on_the_right_masked_and_not_counted() -> None:
    batch = collate(EXAMPLES, pad_id=7)
    lengths = [len(example.tokens) for example in EXAMPLES]
    assert batch.input_ids_BS.shape == (len(EXAMPLES), max(lengths))
    assert batch.attention_mask_BS.sum(dim=1).tolist() == lengths
    for row, mask, example in zip(
        batch.input_ids_BS, batch.attention_mask_BS.bool(), EXAMPLES, strict=True
    ):
        assert row[mask].tolist() == example.tokens
        assert set(row[~mask].tolist()) <= {7}
    assert batch.num_tokens == sum(lengths)


def order(*, seed: int, epoch: int, examples: Sequence[Example] = EXAMPLES) -> list[int]:
    """The first token of each example, which names it, in the order of the epoch."""
    batches = epoch_batches(
        examples, batching="shuffled", batch_size=4, seed=seed, epoch=epoch, pad_id=0
    )
    return [int(row[0]) for batch in batches for row in batch.input_ids_BS]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first = order(seed=1, epoch=1)
    torch.manual_seed(99)  # what a method draws from the global generator changes nothing
    assert order(seed=1, epoch=1) == first
    assert order(seed=1, epoch=2) != first and order(seed=2, epoch=1) != first
    other_contents = [Example([e.tokens[0], 5], 1) for e in EXAMPLES]
    assert order(seed=1, epoch=1, examples=other_contents) == first


def test_an_epoch_holds_every_example_once_and_its_last_batch_may_be_short() -> None:
    assert sorted(order(seed=1, epoch=1)) == [example.tokens[0] for example in EXAMPLES]
    batches = list(
        epoch_batches(EXAMPLES, batching="shuffled", batch_size=4, seed=1, epoch=1, pad_id=0)
    )
    assert [len(batch.input_ids_BS) for batch in batches] == [4, 4, 1]
    assert batches[2].input_ids_BS.shape[1] == int(batches[2].attention_mask_BS.sum())


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [9]), (3, [3, 3, 3]), (4, [3, 3, 3]), (9, [1] * 9)]
)
def test_micro_batches_are_the_batch_in_parts(count: int, sizes: list[int]) -> None:
    batch = collate(EXAMPLES, pad_id=0)
    parts = micro_batches(batch, count)
    assert [len(part.input_ids_BS) for part in parts] == sizes
    for name in ("input_ids_BS", "attention_mask_BS", "labels_BS"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_a_random_batch_is_full_seeded_and_all_target() -> None:
    def made(seed: int) -> Any:
        return random_batch(
            vocabulary=11, batch_size=3, sequence_length=50, seed=seed, device="cpu"
        )

    batch = made(1)
    assert torch.equal(batch.input_ids_BS, made(1).input_ids_BS)
    assert not torch.equal(batch.input_ids_BS, made(2).input_ids_BS)
    assert batch.input_ids_BS.shape == (3, 50) and batch.num_tokens == 150
    assert batch.num_targets == 3 * 49, "the first position predicts nothing"
    assert set(batch.input_ids_BS.unique().tolist()) == set(range(11))


def test_a_batch_is_counted_before_it_goes_to_a_device() -> None:
    """Counting there would make the host wait; on the device of this test it can't be done."""
    batch = collate(EXAMPLES[:3], pad_id=0)
    moved = batch.to("meta")
    assert moved.input_ids_BS.is_meta
    assert (moved.num_tokens, moved.num_targets) == (batch.num_tokens, batch.num_targets)
