"""Lomo in the Hugging Face Trainer trains as SGD does there, to the bit where it does not clip."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from transformers import Trainer

from lomo.optim import Lomo
from lomo.trainer import FusedBackwardCallback
from tests.numerics.models import assert_bit_equal, llama, loss_of, max_difference, weights
from tests.trainer.training import (
    NUM_STEPS,
    clipping_adalomo,
    clipping_lomo,
    examples,
    logged,
    lomo,
    make_trainer,
    sgd,
    train,
)

ROOT = Path(__file__).parents[2]

# Each trains with the Trainer for a while.
pytestmark = pytest.mark.slow

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_steps": 2},
    "bf16": {"bf16": True},
    "checkpointing": {"activation_checkpointing": True},
    "reentrant": {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": True},
    },
    "label_smoothing": {"label_smoothing_factor": 0.1},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_without_clipping_the_bits_of_sgd(tmp_path: Path, setting: str) -> None:
    expected = train(tmp_path, sgd, **SETTINGS[setting])
    actual = train(tmp_path, lomo, **SETTINGS[setting])
    assert_bit_equal(weights(actual.model), weights(expected.model))
    for key in ("loss", "learning_rate"):
        assert logged(actual, key) == logged(expected, key)
        assert len(logged(actual, key)) == NUM_STEPS


def test_a_scheduler_of_the_users_own(tmp_path: Path) -> None:
    def decay(step: int) -> float:
        return 1.0 / (1 + step)

    expected = train(tmp_path, sgd, decay=decay)
    actual = train(tmp_path, lomo, decay=decay)
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert logged(actual, "learning_rate") == [0.1 * decay(step) for step in range(NUM_STEPS)]


def test_a_scale_of_the_loss_changes_no_bit_and_is_not_in_the_norm(tmp_path: Path) -> None:
    expected = train(tmp_path, sgd)
    actual = train(tmp_path, lambda params: Lomo(params, lr=0.1, loss_scale=1024.0))
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert logged(actual, "grad_norm") == pytest.approx(logged(expected, "grad_norm"), rel=1e-6)


@pytest.mark.parametrize("setting", ["plain", "bf16", "checkpointing", "reentrant"])
def test_clipping_and_the_logged_norm_are_the_trainers(tmp_path: Path, setting: str) -> None:
    options = {"max_grad_norm": 1.0, **SETTINGS[setting]}
    expected = train(tmp_path, sgd, **options)
    actual = train(tmp_path, clipping_lomo, **options)
    unclipped = train(tmp_path, sgd, **SETTINGS[setting])
    # torch rounds the clipped gradient before it multiplies by lr; Lomo rounds once.
    assert max_difference(weights(actual.model), weights(expected.model)) < 1e-6
    assert max_difference(weights(actual.model), weights(unclipped.model)) > 1e-3
    norms = logged(actual, "grad_norm")
    assert norms == pytest.approx(logged(expected, "grad_norm"), rel=1e-5)
    assert len(norms) == NUM_STEPS and min(norms) > 1.0


def test_the_optimizers_limit_alone_is_enough(tmp_path: Path) -> None:
    both = train(tmp_path, clipping_lomo, max_grad_norm=1.0)
    alone = train(tmp_path, clipping_lomo, max_grad_norm=0.0)
    assert_bit_equal(weights(alone.model), weights(both.model))
    assert logged(alone, "grad_norm") == logged(both, "grad_norm")


def test_adalomo_is_its_own_plain_loop(tmp_path: Path) -> None:
    """One example a step, so that the Trainer's order and its loss are those of the loop."""
    options = {"per_device_train_batch_size": 1, "train_sampling_strategy": "sequential"}
    trainer = train(tmp_path, clipping_adalomo, max_grad_norm=1.0, **options)
    model = llama()
    optimizer: Any = clipping_adalomo(model.parameters())
    norms = []
    for step, example in enumerate(examples()[:NUM_STEPS]):
        optimizer.param_groups[0]["lr"] = 0.01 * (1.0 - step / NUM_STEPS)
        batch = {key: value[None] for key, value in example.items()}
        optimizer.backward(model(**batch, num_items_in_batch=15).loss)
        optimizer.step()
        norms.append(optimizer.grad_norm)
    assert_bit_equal(weights(trainer.model), weights(model))
    assert logged(trainer, "grad_norm") == pytest.approx(norms, rel=1e-6)


def test_without_clipping_no_norm_is_logged(tmp_path: Path) -> None:
    """It is not measured; 0.0, which the Trainer would log, would be false."""
    trainer = train(tmp_path, lomo)
    assert logged(trainer, "grad_norm") == []
    assert len(logged(trainer, "loss")) == NUM_STEPS


def test_lora_with_lomo(tmp_path: Path) -> None:
    def adapted() -> nn.Module:
        model = llama()
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        return get_peft_model(model, config)

    expected = train(tmp_path, sgd, model=adapted())
    actual = train(tmp_path, lomo, model=adapted())
    assert_bit_equal(weights(actual.model), weights(expected.model))


def test_the_trainer_may_make_the_optimizer(tmp_path: Path) -> None:
    """optimizer_cls_and_kwargs= brings the Trainer's groups, with and without weight decay."""

    def run(cls: type[Optimizer], **kwargs: Any) -> dict[str, Tensor]:
        args = make_trainer(tmp_path, lomo, weight_decay=0.1).args
        made = (cls, {"lr": 0.1, **kwargs})
        trainer = Trainer(llama(), args, train_dataset=examples(), optimizer_cls_and_kwargs=made)
        if cls is Lomo:
            trainer.add_callback(FusedBackwardCallback(trainer))
        trainer.train()
        return weights(trainer.model)

    assert_bit_equal(run(Lomo), run(SGD, foreach=False))


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_model_compiled_as_a_whole_trains_with_a_warning(tmp_path: Path, limit: float) -> None:
    options = {"torch_compile": True, "torch_compile_backend": "aot_eager", "max_grad_norm": limit}
    expected = train(tmp_path, sgd, **options)
    torch._dynamo.reset()  # what was compiled for SGD's one pass
    with pytest.warns(UserWarning, match="compiled as a whole"):
        actual = train(tmp_path, clipping_lomo if limit else lomo, **options)
    # Clipped, torch rounds the gradient before it multiplies by lr; Lomo rounds once.
    difference = max_difference(weights(actual.model), weights(expected.model))
    assert difference <= (1e-6 if limit else 0.0)


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "trainer.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        names = {"model": llama(), "examples": examples(), "loss_of": loss_of}
        exec(compile(block, "docs/trainer.md", "exec"), names)
