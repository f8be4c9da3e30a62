"""Training in the Trainer that is stopped and resumed, started twice, or meets a bad step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from lomo.optim import Lomo
from tests.numerics.models import assert_bit_equal, llama, weights
from tests.trainer.training import (
    NUM_STEPS,
    Make,
    clipping_adalomo,
    clipping_lomo,
    logged,
    make_trainer,
    train,
)

# Each trains with the Trainer for a while.
pytestmark = pytest.mark.slow


def scaled_lomo_of_the_step_before(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1, max_grad_norm=1.0, norm_scope="previous_step", loss_scale="dynamic")


class _StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("make", [clipping_lomo, clipping_adalomo, scaled_lomo_of_the_step_before])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, make: Make) -> None:
    options = {"save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path / "whole", make, **options)
    part = make_trainer(tmp_path / "part", make, **options)
    part.add_callback(_StopAt(2))
    part.train()
    assert part.state.global_step == 2
    resumed = make_trainer(tmp_path / "part", make, **options)
    resumed.train(resume_from_checkpoint=True)
    assert_bit_equal(weights(resumed.model), weights(whole.model))
    for key in ("loss", "learning_rate", "grad_norm"):
        assert logged(resumed, key) == logged(whole, key)


def test_a_trainer_may_train_twice_and_gets_its_accelerator_back(tmp_path: Path) -> None:
    trainer = train(tmp_path, clipping_lomo)
    assert "backward" not in vars(trainer.accelerator)
    assert "clip_grad_norm_" not in vars(trainer.accelerator)
    trainer.train()
    assert trainer.state.global_step == NUM_STEPS
    assert "backward" not in vars(trainer.accelerator)


class _InfiniteAt(nn.Module):
    """Wraps a model; its loss is multiplied by inf in one forward."""

    def __init__(self, model: nn.Module, call: int) -> None:
        super().__init__()
        self.model, self.call, self.calls = model, call, 0

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        loss = self.model(input_ids=input_ids, labels=labels).loss
        self.calls += 1
        return {"loss": loss * math.inf if self.calls == self.call else loss}


def test_a_norm_that_is_not_finite_skips_the_step_and_is_logged(tmp_path: Path) -> None:
    model = _InfiniteAt(llama(), call=1)
    before = weights(model)
    trainer = make_trainer(tmp_path, clipping_lomo, model=model, max_steps=1)
    trainer.train()
    assert_bit_equal(weights(model), before)
    assert not math.isfinite(logged(trainer, "grad_norm")[0])
