"""A plain loop with torch's own schedulers and averages, beside torch's SGD in the same loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from torch.optim import SGD, Optimizer, lr_scheduler, swa_utils

from lomo.optim import Lomo
from tests.clients.small import loss_of, net
from tests.numerics.models import assert_bit_equal, weights

NUM_STEPS = 8


def sgd(params: Any) -> Optimizer:
    return SGD(params, lr=0.1, foreach=False)


def lomo(params: Any) -> Optimizer:
    return Lomo(params, lr=0.1)


def warm_up_and_decay(optimizer: Optimizer) -> Any:
    up = lr_scheduler.LambdaLR(optimizer, lambda step: step / 3)  # from 0 on
    down = lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)
    return lr_scheduler.SequentialLR(optimizer, [up, down], milestones=[3])


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "warm-up from 0, then cosine": warm_up_and_decay,
    "step": lambda o: lr_scheduler.StepLR(o, step_size=3),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.2, total_steps=NUM_STEPS, cycle_momentum=False
    ),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.0, 0.2, step_size_up=2, cycle_momentum=False),
    "averaging": lambda o: swa_utils.SWALR(o, swa_lr=0.02, anneal_epochs=3),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}


def trained(make: Callable[[Any], Optimizer], scheduled: Callable[[Any], Any]) -> Any:
    """The model, its two averages (equal weights and exponential) and the learning rates."""
    model = net()
    optimizer = make(model.parameters())
    scheduler = scheduled(optimizer)
    averages = [
        swa_utils.AveragedModel(model),
        swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9)),
    ]
    rates = []
    for step in range(NUM_STEPS):
        loss_of(model, step).backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        for average in averages:
            average.update_parameters(model)
    return model, averages, rates


@pytest.mark.parametrize("scheduled", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers_and_averages_are_those_of_sgd(scheduled: Callable[[Any], Any]) -> None:
    expected, means, rates = trained(sgd, scheduled)
    actual, same_means, same_rates = trained(lomo, scheduled)
    assert same_rates == rates
    assert_bit_equal(weights(actual), weights(expected))
    for mean, same in zip(means, same_means, strict=True):
        assert_bit_equal(weights(same), weights(mean))


def test_a_loss_on_a_plateau_lowers_the_rate_as_with_sgd() -> None:
    def rates(make: Callable[[Any], Optimizer]) -> list[float]:
        model: nn.Module = net()
        optimizer = make(model.parameters())
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        found = []
        for _ in range(4):
            loss = loss_of(model, 0)
            loss.backward()
            optimizer.step()
            scheduler.step(1.0)  # of a validation that finds no progress
            found.append(optimizer.param_groups[0]["lr"])
        return found

    # SGD's gradients would add up without zero_grad; only the rates are compared.
    assert rates(lomo) == rates(sgd) == pytest.approx([0.1, 0.01, 0.001, 0.0001])
