"""Gradients outside of the optimizer are a plain backward's, with two passes and a loss scale."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lomo.optim import AdaLomo, Lomo

from .models import assert_bit_equal, weights

OPTIONS: dict[str, dict[str, Any]] = {
    "two passes": {"max_grad_norm": 1e9},
    "scaled": {"loss_scale": 64.0},
    "dynamic": {"loss_scale": "dynamic"},
    "both": {"max_grad_norm": 1e9, "loss_scale": 64.0},
}
options = pytest.mark.parametrize("chosen", OPTIONS)
both = pytest.mark.parametrize("make", [Lomo, AdaLomo])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


class Hides(torch.autograd.Function):
    """As a reentrant checkpoint does: a graph of its own, made and run in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: nn.Module) -> Tensor:
        ctx.x, ctx.layer = x.detach(), layer
        output: Tensor = layer(x)
        return output

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, None]:
        with torch.enable_grad():
            x = ctx.x.detach().requires_grad_()
            torch.autograd.backward(ctx.layer(x), dy)
        return x.grad, None


def reentrant(x: Tensor, layer: nn.Module) -> Tensor:
    output: Tensor = checkpoint(layer, x, use_reentrant=True)
    return output


WAYS: dict[str, Callable[[Tensor, nn.Module], Tensor]] = {
    "plain": lambda x, layer: layer(x),
    "reentrant": reentrant,
    "hidden": lambda x, layer: Hides.apply(x, layer),
}


@both
@options
@pytest.mark.parametrize("way", WAYS)
def test_gradients_outside_are_a_plain_backwards(make: Any, chosen: str, way: str) -> None:
    """Of a parameter, an input and a tensor with retain_grad, over three steps."""
    compare(make, chosen, way)


def test_a_tensor_that_the_collector_has_moved_is_found() -> None:
    compare(Lomo, "two passes", "plain", before_backward=gc.collect)


def compare(
    make: Any, chosen: str, way: str, before_backward: Callable[[], Any] = lambda: None
) -> None:
    """Three steps beside a plain backward in another network."""
    net, reference = network(), network()
    x, x_reference = (torch.ones(5, 4, requires_grad=True) for _ in range(2))
    optimizer = make(net[0].parameters(), lr=0.0, **OPTIONS[chosen])
    for _ in range(3):
        hidden = net[0](x)
        hidden.retain_grad()
        before_backward()
        optimizer.backward(WAYS[way](net[1](hidden), net[2]).square().sum())
        optimizer.step()
        expected = reference[0](x_reference)
        expected.retain_grad()
        reference[2](reference[1](expected)).square().sum().backward()
        assert torch.equal(hidden.grad, expected.grad)
        assert torch.equal(x.grad, x_reference.grad)  # added up, as the others
        for ours, theirs in zip(net[2].parameters(), reference[2].parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)


@options
def test_what_was_there_before_is_neither_dropped_nor_scaled(chosen: str) -> None:
    own, other = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Lomo([own], lr=0.1, **OPTIONS[chosen])
    for _ in range(2):
        (other * 3.0).sum().backward()
        optimizer.backward((own * other).sum(), others=[other])
        optimizer.step()
    assert other.grad is not None
    assert other.grad.tolist() == pytest.approx([3.0 + 1.0 + 3.0 + 0.9] * 2, rel=1e-6)


def test_one_forward_may_reach_them_and_the_next_not() -> None:
    own, other = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Lomo([own], lr=0.0, max_grad_norm=1e9)
    for reached in (False, True, False):
        optimizer.backward((own * other).sum() if reached else own.sum())
        optimizer.step()
    assert other.grad is not None and other.grad.tolist() == [1.0, 1.0]


@options
def test_a_skipped_step_leaves_them_as_torch_does(chosen: str) -> None:
    own, other = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Lomo([own], lr=0.1, **OPTIONS[chosen])
    optimizer.backward((own * float("inf")).sum() + other.sum())
    assert own.tolist() == [1.0, 1.0] or chosen in ("scaled", "dynamic")
    assert other.grad is not None and other.grad.tolist() == [1.0, 1.0]


@both
@options
def test_parameters_of_another_fused_optimizer_are_refused(make: Any, chosen: str) -> None:
    """A GAN whose D trains on G's loss, if it is not frozen."""
    generator, critic = network(), nn.Linear(3, 1)
    ours = make(generator.parameters(), lr=0.1, **OPTIONS[chosen])
    theirs = make(critic.parameters(), lr=0.1)
    before = {**weights(generator), **weights(critic)}
    with pytest.raises(RuntimeError, match="requires_grad to False in this backward"):
        ours.backward(critic(generator(torch.ones(2, 4))).sum())
    assert_bit_equal({**weights(generator), **weights(critic)}, before)
    critic.requires_grad_(False)
    ours.backward(critic(generator(torch.ones(2, 4))).sum())
    ours.step()
    critic.requires_grad_(True)
    critic(generator(torch.ones(2, 4)).detach()).sum().backward()
    theirs.step()


def test_a_hook_of_somebody_else_is_refused() -> None:
    """It would use both passes' gradients, as torch's own tutorial on such optimizers does."""
    net = network()
    optimizer = Lomo(net[0].parameters(), lr=0.1, max_grad_norm=1.0)
    net[2].weight.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    before = weights(net)
    with pytest.raises(RuntimeError, match=r"shape \(3, 6\).*No weight was changed"):
        optimizer.backward(net(torch.ones(2, 4)).sum())
    assert_bit_equal(weights(net), before)


def test_two_fused_optimizers_share_a_backward_where_there_is_one_pass() -> None:
    net, reference = network(), network()
    one, two = (Lomo(layer.parameters(), lr=0.1) for layer in (net[0], net[2]))
    sgd = torch.optim.SGD(reference.parameters(), lr=0.1, foreach=False)
    for _ in range(2):
        one.backward(net(torch.ones(2, 4)).square().sum())
        one.step()
        two.step()
        sgd.zero_grad()
        reference(torch.ones(2, 4)).square().sum().backward()
        sgd.step()
    assert_bit_equal(weights(net), weights(reference))


@pytest.mark.parametrize("later", ["unfrozen", "made"])
def test_a_hidden_leaf_that_trains_from_the_second_step_on(later: str) -> None:
    norms = []
    for limit in (None, 1e9):
        model, layer = network(), nn.Linear(6, 6).requires_grad_(False)
        nn.init.constant_(layer.weight, 0.1)
        optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=limit)
        for step in range(3):
            if step == 1:
                layer = layer if later == "unfrozen" else nn.Linear(6, 6)
                nn.init.constant_(layer.weight.requires_grad_(), 0.1)
                nn.init.zeros_(layer.bias)
            x = torch.ones(2, 4) * (step + 1)
            loss = model[2](reentrant(model[1](model[0](x)), layer)).square().sum()
            loss.backward() if limit is None else optimizer.backward(loss)
            optimizer.step()
            if step:
                assert layer.weight.grad is not None
                norms.append(float(layer.weight.grad.norm()))
            layer.zero_grad()
    assert norms[2:] == pytest.approx(norms[:2], rel=1e-5)


def test_a_tensor_that_retains_and_grows_old_before_the_backward() -> None:
    model = network()
    x = torch.ones(2, 4, requires_grad=True)
    hidden = x * 2.0
    hidden.retain_grad()
    gc.collect()
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=1e9)
    optimizer.backward(model(hidden).square().sum())
    assert x.grad is not None and hidden.grad is not None
    torch.testing.assert_close(x.grad, 2.0 * hidden.grad)
    optimizer.step()
    hidden = x * 2.0
    hidden.retain_grad()
    gc.collect(), gc.collect()
    x.grad = None
    optimizer.backward(model(hidden).square().sum())
    assert x.grad is not None and hidden.grad is not None
    torch.testing.assert_close(x.grad, 2.0 * hidden.grad)


def test_all_parameters_named_as_others() -> None:
    model = network()
    optimizer = Lomo(model[0].parameters(), lr=0.1, max_grad_norm=1e9)
    optimizer.backward(model(torch.ones(2, 4)).sum(), others=model.parameters())
    assert model[0].weight.grad is None and model[2].weight.grad is not None
    optimizer.step()


def test_a_dropped_optimizer_watches_the_collector_no_more() -> None:
    before = len(gc.callbacks)
    model = network()
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=1e9)
    optimizer.backward(model(torch.ones(2, 4)).sum())
    assert len(gc.callbacks) == before + 1
    del optimizer
    gc.collect()
    assert len(gc.callbacks) <= before


class Fails(torch.autograd.Function):
    """An identity whose backward raises."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        raise ArithmeticError


def test_a_measuring_pass_that_fails_leaves_nothing() -> None:
    """No gradient to the others, and no norm to the next try."""
    own, late, other = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = Lomo([own, late], lr=0.1, max_grad_norm=1e9)
    other.grad = torch.full((2,), 5.0)
    first = Fails.apply(late).sum()
    with pytest.raises(ArithmeticError):  # nodes made last run first
        optimizer.backward(first + (own * 100.0).sum() + other.sum())
    assert other.grad.tolist() == [5.0, 5.0]
    optimizer.backward(late.sum())
    assert optimizer.grad_norm == pytest.approx(2.0**0.5)


@pytest.mark.parametrize("way", WAYS)
def test_own_parameters_are_no_bystanders(way: str) -> None:
    """Nor where a node may hide them, or somebody names them: what they hold is not put back."""
    net = network()
    optimizer = Lomo(net[2].parameters(), lr=0.0, max_grad_norm=1e9)
    loss = WAYS[way](net[1](net[0](torch.ones(5, 4))), net[2]).square().sum()
    found = optimizer._bystanders.of(loss, optimizer._slots, list(net.parameters()))
    assert {id(p) for p in net[0].parameters()} <= {id(tensor) for tensor in found}
    assert not {id(p) for p in net[2].parameters()} & {id(tensor) for tensor in found}
