"""Without our callback in the Trainer, and in an accelerate loop: the optimizer guards itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from lomo.optim import Lomo
from tests.numerics.models import assert_bit_equal, llama, loss_of, max_difference, weights
from tests.trainer.training import (
    NUM_STEPS,
    Make,
    clipping_adalomo,
    clipping_lomo,
    logged,
    lomo,
    make_trainer,
    sgd,
    train,
)

# Each trains with the Trainer for a while.
pytestmark = pytest.mark.slow


def test_without_the_callback_plain_training_is_sgd_but_the_logged_norm_is_false(
    tmp_path: Path,
) -> None:
    expected = train(tmp_path, sgd)
    actual = train(tmp_path, lomo, callback=False)
    assert_bit_equal(weights(actual.model), weights(expected.model))
    assert logged(actual, "grad_norm") == [0.0] * NUM_STEPS


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lomo, {"gradient_accumulation_steps": 2}, "can't be accumulated"),
        (clipping_lomo, {}, "needs optimizer.backward"),
        (clipping_adalomo, {}, "needs optimizer.backward"),
        (lambda p: Lomo(p, lr=0.1, loss_scale=8.0), {}, "needs optimizer.backward"),
    ],
)
def test_without_the_callback_the_optimizer_itself_refuses(
    tmp_path: Path, make: Make, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        train(tmp_path, make, callback=False, **options)


def test_without_the_callback_a_scaler_is_refused_before_a_weight_moves(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, lomo, callback=False)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = weights(trainer.model)
    with pytest.raises(RuntimeError, match="GradScaler has scaled the loss"):
        trainer.train()
    assert_bit_equal(weights(trainer.model), before)


def accelerate_loop(make: Make, backward: str = "accelerator") -> nn.Module:
    model = llama()
    own: Any = make(model.parameters())
    accelerator = Accelerator(cpu=True)
    scheduler = LambdaLR(own, lambda step: 1.0 / (1 + step))
    model, optimizer, scheduler = accelerator.prepare(model, own, scheduler)
    for step in range(NUM_STEPS):
        loss = loss_of(model, step)
        if backward == "accelerator":
            accelerator.backward(loss)
        else:
            own.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model


def test_accelerate_trains_as_sgd() -> None:
    assert_bit_equal(weights(accelerate_loop(lomo)), weights(accelerate_loop(sgd)))


@pytest.mark.parametrize("make", [clipping_lomo, clipping_adalomo])
def test_accelerate_with_clipping_needs_the_optimizers_own_backward(make: Make) -> None:
    with pytest.raises(RuntimeError, match="needs optimizer.backward"):
        accelerate_loop(make)
    clipped = accelerate_loop(make, backward="optimizer")
    assert max_difference(weights(clipped), weights(llama())) > 1e-3


def test_accelerates_accumulation_is_refused_by_the_optimizer() -> None:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = llama()
    model, optimizer = accelerator.prepare(model, Lomo(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match="can't be accumulated"):
        for step in range(2):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, step))
                optimizer.step()
                optimizer.zero_grad()
