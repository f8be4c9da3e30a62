"""`step(closure)`, as LBFGS and Lightning call it: run once, as torch's SGD runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lomo.optim import AdaLomo, Lomo
from tests.clients.small import loss_of, net
from tests.numerics.models import assert_bit_equal, max_difference, weights

both = pytest.mark.parametrize("make", [Lomo, AdaLomo])


def trained(
    make: Callable[..., Optimizer], backward: Callable[[Any, Tensor], None] | None = None
) -> tuple[nn.Module, list[float]]:
    """Five steps by closures under a scheduler, and what `step` gave."""
    model = net()
    optimizer = make(model.parameters())
    scheduler = LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
    values = []
    for step in range(5):

        def closure(step: int = step) -> float:
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward() if backward is None else backward(optimizer, loss)
            return loss.item()

        with torch.no_grad():  # as Lightning's own loop calls it
            values.append(optimizer.step(closure))
        scheduler.step()
    return model, values


def test_a_closure_trains_as_sgd_and_its_value_is_given() -> None:
    expected, losses = trained(lambda p: SGD(p, lr=0.1, foreach=False))
    actual, same = trained(lambda p: Lomo(p, lr=0.1))
    assert_bit_equal(weights(actual), weights(expected))
    assert losses == same


def test_a_closure_may_clip_by_the_optimizers_own_backward() -> None:
    def clipped(optimizer: Optimizer, loss: Tensor) -> None:
        loss.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.05)

    expected, losses = trained(lambda p: SGD(p, lr=0.1, foreach=False), clipped)
    actual, same = trained(
        lambda p: Lomo(p, lr=0.1, max_grad_norm=0.05),
        lambda optimizer, loss: optimizer.backward(loss),
    )
    assert max_difference(weights(actual), weights(expected)) < 1e-7
    assert losses == pytest.approx(same, rel=1e-6)


@both
def test_a_closure_that_runs_backward_twice_is_an_error(make: Any) -> None:
    model = net()
    optimizer = make(model.parameters(), lr=0.1)

    def closure() -> None:
        loss_of(model, 0).backward()
        loss_of(model, 1).backward()

    with pytest.raises(RuntimeError, match="can't be accumulated"):
        optimizer.step(closure)


@both
def test_a_backward_before_that_of_the_closure_is_an_error(make: Any) -> None:
    model = net()
    optimizer = make(model.parameters(), lr=0.1)
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match="can't be accumulated"):
        optimizer.step(lambda: loss_of(model, 1).backward())


@both
def test_a_closure_that_fails_half_way_leaves_no_step_done(make: Any) -> None:
    """The optimizer's own backward knows that it failed, and says so for ever."""
    model = net()
    optimizer = make(model.parameters(), lr=0.1, max_grad_norm=1.0)

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.passes = 0
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            ctx.passes += 1
            if ctx.passes == 2:
                raise OSError("the second pass")
            return gradient

    def closure() -> None:
        hidden = model[:2](torch.ones(3, 4))
        optimizer.backward(model[2](Fails.apply(hidden)).square().mean())

    with pytest.raises(OSError, match="the second pass"):
        optimizer.step(closure)
    with pytest.raises(RuntimeError, match="failed and may have moved"):
        optimizer.step(closure)


@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 1.0}, {"loss_scale": 8.0}])
def test_a_closure_without_a_backward_moves_nothing(options: dict[str, Any]) -> None:
    """Lightning's does so where `training_step` gives None; SGD leaves the step out."""
    model = net()
    optimizer = Lomo(model.parameters(), lr=0.1, **options)
    with pytest.warns(UserWarning, match="no parameter of this optimizer got a gradient"):
        assert optimizer.step(lambda: 1.5) == 1.5
    assert_bit_equal(weights(model), weights(net()))
    optimizer.step(lambda: optimizer.backward(loss_of(model, 0)))
    assert max_difference(weights(model), weights(net())) > 1e-4


@both
def test_a_plain_backward_in_a_closure_is_an_error_where_it_would_train_unclipped(
    make: Any,
) -> None:
    model = net()
    optimizer = make(model.parameters(), lr=0.1, max_grad_norm=1.0)
    with pytest.raises(RuntimeError, match=r"needs optimizer\.backward"):
        optimizer.step(lambda: loss_of(model, 0).backward())
    assert_bit_equal(weights(model), weights(net()))


def test_a_closed_optimizer_runs_no_closure() -> None:
    """Its hooks are gone: the backward would leave gradients behind, and nothing would move."""
    model = net()
    optimizer = Lomo(model.parameters(), lr=0.1)
    optimizer.close()
    ran = []
    with pytest.raises(RuntimeError, match="closed"):
        optimizer.step(lambda: ran.append(1))
    assert not ran
