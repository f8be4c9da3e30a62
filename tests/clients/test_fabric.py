"""Fabric's loop beside torch's SGD in the same loop."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lomo.optim import AdaLomo, Lomo
from tests.numerics.models import assert_bit_equal, llama, loss_of, max_difference, weights

pytestmark = pytest.mark.slow  # Fabric takes seconds to import
CLIPPED = 0.5  # norms are about 5
Make = Callable[[Any], Optimizer]


def sgd(params: Any) -> Optimizer:
    return SGD(params, lr=0.1, foreach=False)


def lomo(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1)


def clipping(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1, max_grad_norm=CLIPPED)


def adalomo(params: Any) -> Optimizer:
    return AdaLomo(params, lr=0.01)


class Loop:
    """A tiny LLaMA, its optimizer and a scheduler as Fabric sets them up."""

    def __init__(self, make: Make, **options: Any) -> None:
        from lightning.fabric import Fabric

        self.fabric = Fabric(accelerator="cpu", devices=1, **options)
        model = llama()
        self.model, self.optimizer = self.fabric.setup(model, make(model.parameters()))
        self.scheduler = LambdaLR(self.optimizer, lambda step: 1.0 / (1 + step))
        self.num_steps = 0

    def run(
        self, num_steps: int, backward: Callable[[Any], None] | None = None, clip: bool = False
    ) -> nn.Module:
        for step in range(self.num_steps, self.num_steps + num_steps):
            (backward or self.fabric.backward)(loss_of(self.model, step))
            if clip:
                self.fabric.clip_gradients(self.model, self.optimizer, max_norm=CLIPPED)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
        self.num_steps += num_steps
        model: nn.Module = self.model.module
        return model

    def state(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_trains_as_sgd_bit_for_bit(precision: str) -> None:
    expected = Loop(sgd, precision=precision).run(5)
    actual = Loop(lomo, precision=precision).run(5)
    assert_bit_equal(weights(actual), weights(expected))


def test_clipping_by_the_optimizers_backward_is_fabrics() -> None:
    expected = Loop(sgd).run(5, clip=True)
    loop = Loop(clipping)
    actual = loop.run(5, loop.optimizer.backward)
    assert max_difference(weights(actual), weights(expected)) < 1e-6
    assert loop.optimizer.grad_norm > CLIPPED


def test_clipping_under_autocast_is_fabrics() -> None:
    """Fabric wants its own backward for what its module gave; of the module inside it asks none."""
    expected = Loop(sgd, precision="bf16-mixed").run(3, clip=True)
    loop = Loop(clipping, precision="bf16-mixed")
    with pytest.raises(RuntimeError, match=r"call `fabric\.backward\(loss\)`"):
        loop.run(1, loop.optimizer.backward)

    loop = Loop(clipping, precision="bf16-mixed")
    for step in range(3):
        with loop.fabric.autocast():
            loss = loss_of(loop.model.module, step)
        loop.optimizer.backward(loss)
        loop.optimizer.step()
        loop.scheduler.step()
    assert max_difference(weights(loop.model.module), weights(expected)) < 1e-6


def test_clipping_without_the_optimizers_backward_is_an_error() -> None:
    loop = Loop(clipping)
    with pytest.raises(RuntimeError, match=r"needs optimizer\.backward\(loss\)"):
        loop.run(1)
    assert_bit_equal(weights(loop.model.module), weights(llama()))


@pytest.mark.parametrize("make", [lomo, adalomo])
def test_a_resumed_loop_is_the_whole_loop_bit_for_bit(make: Make, tmp_path: Path) -> None:
    whole = Loop(make).run(6)
    first, second = Loop(make), Loop(make)
    first.run(3)
    first.fabric.save(tmp_path / "half.ckpt", first.state())
    second.fabric.load(tmp_path / "half.ckpt", second.state())
    second.num_steps = 3
    assert_bit_equal(weights(second.run(3)), weights(whole))


def test_fabrics_own_clipping_is_an_error_where_it_finds_no_gradients() -> None:
    with pytest.raises(RuntimeError, match="clip_gradients found no gradients"):
        Loop(lomo).run(1, clip=True)
    loop, alone = Loop(clipping), Loop(clipping)  # which has clipped already, by itself
    actual = loop.run(3, loop.optimizer.backward, clip=True)
    assert_bit_equal(weights(actual), weights(alone.run(3, alone.optimizer.backward)))


@pytest.fixture
def no_scaler_is_left() -> Iterator[None]:
    """One that lives on is suspected of having scaled every loss that was multiplied last."""
    yield
    gc.collect()


@pytest.mark.usefixtures("no_scaler_is_left")
def test_a_grad_scaler_is_refused_before_a_weight_moves() -> None:
    from lightning.fabric.plugins import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loop = Loop(lomo, plugins=[MixedPrecision("16-mixed", device="cpu", scaler=scaler)])
    with pytest.raises(RuntimeError, match="GradScaler has scaled the loss"):
        loop.run(1)
    assert_bit_equal(weights(loop.model.module), weights(llama()))


def test_accumulation_is_an_error() -> None:
    loop = Loop(lomo)
    loop.fabric.backward(loss_of(loop.model, 0))
    with pytest.raises(RuntimeError, match="can't be accumulated"):
        loop.fabric.backward(loss_of(loop.model, 1))
