"""How long a run will take, against sums done by hand."""

from __future__ import annotations

from typing import Any

import pytest

from lomo.forecast.duration import (
    LAYER_S,
    START_S,
    SUSTAINED,
    Sizes,
    base_seconds,
    run_seconds,
    speed_of,
)
from lomo.model.registry import ModelEntry, Pretraining
from lomo.specs import MeasureSpec, TrainSpec
from lomo.speed.flops import hardware_flops_per_step
from lomo.study.config import Study
from lomo.study.machine import Machine, Speed, given_machine
from lomo.study.plan import make_plan

CONFIG: dict[str, Any] = {
    **{"model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "num_hidden_layers": 32},
    **{"intermediate_size": 11008, "num_attention_heads": 32, "tie_word_embeddings": False},
}
NUM = 6_738_415_616
SIZES = Sizes(CONFIG, NUM, NUM)
H200 = given_machine(140.0, 1, "NVIDIA H200")


def measured(study_dict: dict[str, Any]) -> MeasureSpec:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    run = next(run for run in plan.runs.values() if run.kind == "measure" and run.method == "lomo")
    assert isinstance(run, MeasureSpec)
    return run.model_copy(update={"dtype": "bfloat16", "batch_size": 8, "sequence_length": 512})


def step_flops(run: MeasureSpec, *, num_backwards: int = 1) -> float:
    return hardware_flops_per_step(
        CONFIG,
        num_parameters=NUM,
        num_trainable_parameters=NUM,
        batch_size=run.batch_size,
        sequence_length=run.sequence_length,
        activation_checkpointing=run.activation_checkpointing,
        num_backwards=num_backwards,
        attention=run.attention,
    )


def test_a_large_step_takes_its_operations_over_the_rate(study_dict: dict[str, Any]) -> None:
    run = measured(study_dict)
    speed = speed_of(H200, 1)
    assert speed.flops_per_s["bfloat16"] == pytest.approx(SUSTAINED * 989.4e12)
    seconds = run_seconds(run, SIZES, H200, speed)
    step = step_flops(run) / (SUSTAINED * 989.4e12)
    num_steps = run.num_warmup_steps + run.num_timed_steps + 3
    assert seconds == pytest.approx(START_S["cuda"] + 2 * NUM / 1e9 + num_steps * step)


def test_a_small_step_takes_what_its_host_takes(study_dict: dict[str, Any]) -> None:
    run = measured(study_dict).model_copy(update={"batch_size": 1, "sequence_length": 2})
    seconds = run_seconds(run, SIZES, H200, speed_of(H200, 1))
    num_steps = run.num_warmup_steps + run.num_timed_steps + 3
    expected = START_S["cuda"] + 2 * NUM / 1e9 + num_steps * 33 * LAYER_S
    assert seconds == pytest.approx(expected)


def test_random_weights_are_not_read(study_dict: dict[str, Any]) -> None:
    run, speed = measured(study_dict), speed_of(H200, 1)
    read = run_seconds(run, SIZES, H200, speed)
    drawn = run_seconds(run, Sizes(CONFIG, NUM, NUM, drawn=True), H200, speed)
    assert read is not None and drawn is not None
    assert read - drawn == pytest.approx(2 * NUM / 1e9)


def test_exact_clipping_takes_a_second_backward(study_dict: dict[str, Any]) -> None:
    run = measured(study_dict)
    clipped = run.model_copy(update={"max_grad_norm": 1.0})
    speed = speed_of(H200, 1)
    plain, twice = (run_seconds(each, SIZES, H200, speed) for each in (run, clipped))
    assert plain is not None and twice is not None
    num_steps = run.num_warmup_steps + run.num_timed_steps + 3
    more = step_flops(run, num_backwards=2) - step_flops(run)
    assert twice - plain == pytest.approx(num_steps * more / speed.flops_per_s["bfloat16"])


def test_a_card_is_known_however_its_name_is_written() -> None:
    assert speed_of(given_machine(140.0, 1, "nvidia h200"), 1) == speed_of(H200, 1)


def test_an_unknown_card_has_no_time(study_dict: dict[str, Any]) -> None:
    card = given_machine(24.0, 1, None)
    speed = speed_of(card, 1)
    assert speed.why_unknown is not None and "24 GiB" in speed.why_unknown
    assert run_seconds(measured(study_dict), SIZES, card, speed) is None


def test_a_training_takes_its_steps_and_what_it_scores(study_dict: dict[str, Any]) -> None:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    run = next(run for run in plan.runs.values() if run.method == "sgd" and run.kind == "train")
    assert isinstance(run, TrainSpec)
    cpu = Machine(
        kind="cpu", name="CPU", num_devices=1, device_bytes=1, host_bytes=1, origin="found"
    )
    speed = Speed(flops_per_s={run.dtype: 1e12}, source="a test")
    once = run_seconds(run.model_copy(update={"epochs": 2}), SIZES, cpu, speed)
    twice = run_seconds(run.model_copy(update={"epochs": 4}), SIZES, cpu, speed)
    scored_only = run_seconds(run, Sizes(CONFIG, NUM, 0), cpu, speed)
    assert once is not None and twice is not None and scored_only is not None
    start = START_S["cpu"] + NUM * 4 / 1e9
    # Two epochs and the final scoring of the test split, which zero-shot needs too.
    assert 2 * (once - start) > twice - start > once - start > 0
    assert scored_only < once


def test_a_base_models_own_training_is_its_steps(study_dict: dict[str, Any]) -> None:
    plan = Pretraining(num_steps=100, batch_size=4, sequence_length=32, learning_rate=0.003)
    base = ModelEntry(name="base", weights="pretrain", architecture=CONFIG, pretrain=plan)
    run = measured(study_dict).model_copy(
        update={
            **{"batch_size": 4, "sequence_length": 32, "attention": "sdpa"},
            "activation_checkpointing": False,
        }
    )
    cpu = Machine.model_validate(H200.model_dump() | {"kind": "cpu"})
    speed = Speed(flops_per_s={"float32": 1e12}, source="a test")
    expected = START_S["cpu"] + 100 * (step_flops(run) / 1e12 + 33 * LAYER_S)
    assert base_seconds(base, SIZES, cpu, speed) == pytest.approx(expected)
    # It is trained on the host, whose speed a plan for a card does not know.
    assert base_seconds(base, SIZES, H200, speed) is None
