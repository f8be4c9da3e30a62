"""accelerate beyond the loop that tests/trainer holds: autocast, a scheduler, its state files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lomo.optim import AdaLomo
from tests.numerics.models import assert_bit_equal, llama, loss_of, weights
from tests.trainer.training import lomo, sgd

pytestmark = pytest.mark.slow
Make = Callable[[Any], Optimizer]


def adalomo(params: Any) -> Optimizer:
    return AdaLomo(params, lr=0.01)


@pytest.fixture(autouse=True)
def state_of_its_own() -> Iterator[None]:
    """accelerate keeps the precision for the whole process, whatever a later one is told."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Loop:
    """A tiny LLaMA, its optimizer and a scheduler as accelerate prepares them."""

    def __init__(self, make: Make, **options: Any) -> None:
        self.accelerator = Accelerator(cpu=True, **options)
        model = llama()
        own = make(model.parameters())
        scheduler = LambdaLR(own, lambda step: 1.0 / (1 + step))
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(model, own, scheduler)

    def run(self, *steps: int) -> nn.Module:
        for step in steps:
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(loss_of(self.model, step))
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        model: nn.Module = self.accelerator.unwrap_model(self.model)
        return model


def test_under_autocast_it_trains_as_sgd_bit_for_bit() -> None:
    expected = Loop(sgd, mixed_precision="bf16").run(*range(5))
    actual = Loop(lomo, mixed_precision="bf16").run(*range(5))
    assert_bit_equal(weights(actual), weights(expected))


@pytest.mark.parametrize("make", [lomo, adalomo])
def test_a_resumed_loop_is_the_whole_loop_bit_for_bit(make: Make, tmp_path: Path) -> None:
    whole = Loop(make).run(*range(6))
    first, second = Loop(make), Loop(make)
    first.run(0, 1, 2)
    first.accelerator.save_state(str(tmp_path))
    second.accelerator.load_state(str(tmp_path))
    assert_bit_equal(weights(second.run(3, 4, 5)), weights(whole))
