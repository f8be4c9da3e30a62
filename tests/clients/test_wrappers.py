"""Wrappers that take on an optimizer's class, as Fabric's, Lightning's and their forerunners do."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lomo.optim import AdaLomo, FusedBackward, Lomo, MasterCopy, update_in_gemm
from tests.clients.small import loss_of, net
from tests.numerics.models import assert_bit_equal, max_difference, weights


class Asking:
    """What it lacks it asks of its optimizer: Fabric and Lightning 2."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self.__class__ = type("Wrapped", (type(self), type(optimizer)), {})

    def step(self, closure: Any = None) -> Any:
        return self._optimizer.step(closure)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


class Copying:
    """It has a copy of its optimizer's attributes: Fabric and Lightning before."""

    def __init__(self, optimizer: Any) -> None:
        self.__dict__ = {k: v for k, v in vars(optimizer).items() if k != "step"}
        self.__class__ = type("Wrapped", (type(self), type(optimizer)), {})
        self._optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self._optimizer.step(closure)


class Counting:
    """Not a wrapper but a mix-in, before the optimizer in the bases as well."""

    num_calls = 0

    def step(self, closure: Any = None) -> Any:
        self.num_calls += 1
        return super().step(closure)  # type: ignore[misc]


class CountingLomo(Counting, Lomo):
    pass


wrappers = pytest.mark.parametrize("wrap", [Asking, Copying])


def trained(make: Callable[[Any], Optimizer], wrap: Any, backward: Any) -> nn.Module:
    model = net()
    optimizer = wrap(make(model.parameters()))
    scheduler = LambdaLR(optimizer, lambda step: 1.0 / (1 + step))
    for step in range(5):
        backward(optimizer, loss_of(model, step))
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model


@wrappers
def test_it_trains_as_sgd_in_the_wrapper(wrap: Any) -> None:
    def plain(optimizer: Any, loss: Any) -> None:
        loss.backward()

    expected = trained(lambda p: SGD(p, lr=0.1, foreach=False), wrap, plain)
    actual = trained(lambda p: Lomo(p, lr=0.1), wrap, plain)
    assert_bit_equal(weights(actual), weights(expected))


@wrappers
@pytest.mark.parametrize("options", [{}, {"max_grad_norm": 0.05}, {"loss_scale": 8.0}])
def test_backward_of_the_wrapper_is_the_optimizers(wrap: Any, options: dict[str, Any]) -> None:
    """Noted in the wrapper, an open step would look like accumulation at the next one."""

    def own(optimizer: Any, loss: Any) -> None:
        optimizer.backward(loss)

    bare = trained(lambda p: Lomo(p, lr=0.1, **options), lambda optimizer: optimizer, own)
    actual = trained(lambda p: Lomo(p, lr=0.1, **options), wrap, own)
    assert_bit_equal(weights(actual), weights(bare))


@wrappers
def test_what_is_read_and_set_through_the_wrapper_is_the_optimizers(wrap: Any) -> None:
    model = net()
    own = Lomo(model.parameters(), lr=0.1, max_grad_norm=1e9)
    wrapper = wrap(own)
    assert isinstance(wrapper, FusedBackward) and isinstance(wrapper, Optimizer)
    wrapper.backward(loss_of(model, 0))
    wrapper.step()
    assert wrapper.grad_norm == own.grad_norm is not None
    wrapper.max_grad_norm = 1e-9
    assert own.max_grad_norm == 1e-9
    before = weights(model)
    wrapper.backward(loss_of(model, 0))
    assert max_difference(weights(model), before) < 1e-9
    wrapper.of_the_wrapper = 1  # which is no business of the optimizer
    assert not hasattr(own, "of_the_wrapper")
    wrapper.close()
    with pytest.raises(RuntimeError, match="closed"):
        own.step()


@wrappers
@pytest.mark.parametrize("kind", [Lomo, AdaLomo])
def test_state_loaded_into_the_wrapper_is_the_optimizers(wrap: Any, kind: Any) -> None:
    model, other = net(), net()
    saved, own = kind(model.parameters(), lr=0.1), kind(other.parameters(), lr=0.2)
    loss_of(model, 0).backward()
    saved.step()
    wrapper = wrap(own)
    wrapper.load_state_dict(saved.state_dict())
    assert own.param_groups[0]["lr"] == wrapper.param_groups[0]["lr"] == 0.1
    assert str(own.state_dict()) == str(wrapper.state_dict()) == str(saved.state_dict())


@wrappers
def test_a_group_added_through_the_wrapper_trains(wrap: Any) -> None:
    model = net()
    wrapper = wrap(Lomo(model[0].parameters(), lr=0.1))
    wrapper.add_param_group({"params": list(model[2].parameters()), "lr": 0.1})
    loss_of(model, 0).backward()
    wrapper.step()
    expected = net()
    plain = SGD(expected.parameters(), lr=0.1, foreach=False)
    loss_of(expected, 0).backward()
    plain.step()
    assert_bit_equal(weights(model), weights(expected))


@wrappers
def test_master_copies_are_loaded_through_the_wrapper(wrap: Any) -> None:
    model, other = net().bfloat16(), net().bfloat16()
    saved, own = (MasterCopy(m.parameters(), SGD, lr=0.1) for m in (model, other))
    model(torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
    saved.step()
    other.load_state_dict(model.state_dict())
    wrap(own).load_state_dict(saved.state_dict())
    for model_, optimizer in ((model, saved), (other, own)):
        optimizer.zero_grad()
        model_(torch.ones(3, 4, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
    assert_bit_equal(weights(other), weights(model))


@wrappers
def test_updates_in_the_product_outlive_the_wrapper_that_asked_for_them(wrap: Any) -> None:
    model, expected = net(), net()
    own, plain = Lomo(model.parameters(), lr=0.1), Lomo(expected.parameters(), lr=0.1)
    names = update_in_gemm(wrap(own), model)
    assert names == update_in_gemm(plain, expected) == ["0.weight", "2.weight"]
    gc.collect()
    for step in range(3):
        for net_, optimizer in ((model, own), (expected, plain)):
            loss_of(net_, step).backward()
            optimizer.step()
    assert type(model[0]) is type(expected[0]) is not nn.Linear
    assert_bit_equal(weights(model), weights(expected))


def test_a_class_with_a_mix_in_is_an_optimizer_like_any_other() -> None:
    model, expected = net(), net()
    optimizer, plain = CountingLomo(model.parameters(), lr=0.1), Lomo(expected.parameters(), lr=0.1)
    optimizer.max_grad_norm = plain.max_grad_norm = 0.05
    for step in range(3):
        for net_, one in ((model, optimizer), (expected, plain)):
            one.backward(loss_of(net_, step))
            one.step()
    assert optimizer.num_calls == 3
    assert_bit_equal(weights(model), weights(expected))


def test_a_class_of_an_optimizer_and_more_is_the_optimizer() -> None:
    """Only what stands before the optimizer in the bases may be a wrapper around one."""

    class With(Lomo, Counting):
        pass

    class Own(Lomo):
        pass

    for plain in (With, Own):
        assert not {"__getattribute__", "__setattr__"} & vars(plain).keys()
    assert "__getattribute__" in vars(CountingLomo)


def test_clipping_by_others_is_refused_only_where_gradients_are_gone() -> None:
    model = net()
    optimizer = Lomo(model.parameters(), lr=0.1)
    optimizer._check_clipping_by_others()  # of a client that looks before its first backward
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match="clip_gradients found no gradients"):
        optimizer._check_clipping_by_others()
    optimizer.step()
    optimizer._check_clipping_by_others()
    by_value = Lomo(net().parameters(), lr=0.1, clip_value=1.0)
    by_value._step_is_open = True
    by_value._check_clipping_by_others()  # it has clipped them itself
