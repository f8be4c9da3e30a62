"""Options of a whole optimizer that are changed between steps: in effect, or refused."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from lomo.optim import AdaLomo, Lomo, update_in_gemm

from .models import assert_bit_equal, llama, loss_of, max_difference, weights

both = pytest.mark.parametrize("make", [Lomo, AdaLomo])


def train(
    make: Any, changes: dict[int, dict[str, Any]], *, plain: bool = False, **options: Any
) -> dict[str, torch.Tensor]:
    """Weights after four steps; before some of them, options are set anew."""
    model = llama(dtype=torch.bfloat16 if "rounding" in options else torch.float32)
    optimizer = make(model.parameters(), lr=0.05, **options)
    for step in range(4):
        for name, value in changes.get(step, {}).items():
            setattr(optimizer, name, value)
        loss = loss_of(model, step)
        needs_own = optimizer.max_grad_norm is not None or optimizer.loss_scale is not None
        optimizer.backward(loss) if needs_own or not plain else loss.backward()
        optimizer.step()
    return weights(model)


@both
@pytest.mark.parametrize("plain", [False, True], ids=["backward(loss)", "loss.backward"])
def test_clipping_that_is_switched_off_is_off(make: Any, plain: bool) -> None:
    """It kept the last coefficient."""
    switched = train(make, {0: {"max_grad_norm": None}}, plain=plain, max_grad_norm=1e-3)
    assert_bit_equal(switched, train(make, {}, plain=plain))
    later = train(make, {2: {"max_grad_norm": None}}, plain=plain, max_grad_norm=1e-3)
    unclipped_later = train(make, {0: {"max_grad_norm": 1e-3}, 2: {"max_grad_norm": None}})
    assert_bit_equal(later, unclipped_later)


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "limit": ({"max_grad_norm": 9.0}, {"max_grad_norm": 0.1}),
    "scope": ({"max_grad_norm": 0.1}, {"norm_scope": "parameter"}),
    "rounding": ({"rounding": "nearest"}, {"rounding": "stochastic"}),
    "seed": ({"rounding": "stochastic"}, {"seed": 7}),
    "loss_scale": ({}, {"loss_scale": 64.0}),
}


@both
@pytest.mark.parametrize("case", CHANGES)
def test_a_change_before_the_first_step_is_as_if_made_so(make: Any, case: str) -> None:
    options, change = CHANGES[case]
    changed = train(make, {0: change}, **options)
    assert_bit_equal(changed, train(make, {}, **{**options, **change}))


def test_a_clip_value_that_is_set_later() -> None:
    changed = train(Lomo, {0: {"clip_value": 0.01}})
    assert_bit_equal(changed, train(Lomo, {}, clip_value=0.01))


def test_a_norm_of_long_ago_clips_nothing() -> None:
    """The first step after a change of scope is exact."""
    off, on = {"norm_scope": "global"}, {"max_grad_norm": 0.1, "norm_scope": "previous_step"}
    changes = {1: {**off, "max_grad_norm": None}, 3: on}
    exact = {1: {"max_grad_norm": None}, 3: {"max_grad_norm": 0.1}}
    assert_bit_equal(
        train(Lomo, changes, max_grad_norm=0.1, norm_scope="previous_step"),
        train(Lomo, exact, max_grad_norm=0.1),
    )


@both
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_grad_norm", 0.0, "max_grad_norm must be a number above 0"),
        ("max_grad_norm", "1", "max_grad_norm must be"),
        ("norm_scope", "layer", "global, parameter, previous_step"),
        ("norm_scope", "parameter", "needs max_grad_norm"),
        ("rounding", "up", "nearest, stochastic"),
        ("seed", 0.5, "seed must be a whole number"),
        ("loss_scale", -1.0, "loss_scale must be"),
    ],
)
def test_a_bad_value_is_refused_and_changes_nothing(
    make: Any, name: str, value: Any, message: str
) -> None:
    optimizer = make([nn.Parameter(torch.ones(2))], lr=0.1)
    before = copy.copy(getattr(optimizer, name))
    with pytest.raises(ValueError, match=message):
        setattr(optimizer, name, value)
    assert getattr(optimizer, name) == before


def test_a_limit_and_a_clip_value_do_not_meet_later_either() -> None:
    by_value = Lomo([nn.Parameter(torch.ones(2))], lr=0.1, clip_value=1.0)
    with pytest.raises(ValueError, match="not both"):
        by_value.max_grad_norm = 1.0
    by_norm = Lomo([nn.Parameter(torch.ones(2))], lr=0.1, max_grad_norm=1.0)
    with pytest.raises(ValueError, match="not both"):
        by_norm.clip_value = 1.0


@both
@pytest.mark.parametrize(
    ("name", "value"),
    [("max_grad_norm", None), ("norm_scope", "global"), ("loss_scale", None), ("seed", 1)],
)
def test_an_open_step_keeps_its_options(make: Any, name: str, value: Any) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = make([weight], lr=0.1, max_grad_norm=1.0, loss_scale=2.0)
    optimizer.backward(weight.sum())
    with pytest.raises(RuntimeError, match=r"set it after step\(\)"):
        setattr(optimizer, name, value)
    optimizer.step()
    setattr(optimizer, name, value)


@pytest.mark.parametrize(("name", "value"), [("rounding", "stochastic"), ("clip_value", 1.0)])
def test_what_the_product_can_not_honour_is_refused_later_too(name: str, value: Any) -> None:
    model = llama()
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    with pytest.raises(RuntimeError, match="can't be changed any more: update_in_gemm"):
        setattr(optimizer, name, value)
    setattr(optimizer, name, getattr(optimizer, name))


@both
@pytest.mark.parametrize("scope", ["global", "parameter", "previous_step"])
def test_an_infinite_limit_measures_and_clips_nothing(make: Any, scope: Any) -> None:
    measured = llama()
    optimizer = make(measured.parameters(), lr=0.05, max_grad_norm=float("inf"), norm_scope=scope)
    for step in range(4):
        optimizer.backward(loss_of(measured, step))
        optimizer.step()
        assert optimizer.grad_norm is not None and 0.0 < optimizer.grad_norm < float("inf")
    assert max_difference(weights(measured), train(make, {})) == 0.0


@both
def test_a_learning_rate_of_zero_moves_nothing(make: Any) -> None:
    """Where a warm-up starts; torch's SGD allows it."""
    model = llama()
    before = weights(model)
    optimizer = make(model.parameters(), lr=0.0)
    optimizer.backward(loss_of(model, 0))
    optimizer.step()
    assert_bit_equal(weights(model), before)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.backward(loss_of(model, 0))
    assert max_difference(weights(model), before) > 0.0
