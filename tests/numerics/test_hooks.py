"""Hooks of a user beside ours: the update takes what theirs have made of a gradient."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint

from lomo.optim import AdaLomo, Lomo
from lomo.optim.hooks import GradientHook, observing
from lomo.optim.in_gemm import InGemmEmbedding, InGemmLinear, update_in_gemm
from tests.numerics.in_gemm import ONE_ROUNDING, mlp, mlp_loss
from tests.numerics.models import max_difference, weights

Hook = Callable[[nn.Module], None]


def halve(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.mul_(0.5)


def replace(parameter: Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad = parameter.grad.sign()


def each_weight(model: nn.Module) -> Iterator[nn.Parameter]:
    return (p for name, p in model.named_parameters() if "weight" in name)


def accumulated(model: nn.Module, hook: Callable[[Tensor], None] = halve) -> None:
    for parameter in each_weight(model):
        parameter.register_post_accumulate_grad_hook(hook)


def on_the_tensor(model: nn.Module) -> None:
    for parameter in each_weight(model):
        parameter.register_hook(lambda gradient: gradient * 0.5)


def on_the_node(model: nn.Module) -> None:
    nodes = [torch.autograd.graph.get_gradient_edge(model[i].bias).node for i in (1, 3)]
    for node in nodes:
        node.register_prehook(lambda gradients: (gradients[0] * 0.5,))
    model.nodes = nodes  # a node that nobody holds is gone, and its hooks with it


def several(model: nn.Module) -> None:
    on_the_tensor(model)
    accumulated(model, replace)
    accumulated(model)


def backward_of_modules(model: nn.Module) -> None:
    for layer in model[1:]:
        layer.register_full_backward_pre_hook(lambda _, dy: (dy[0] * 0.5,))
        layer.register_full_backward_hook(lambda _, dx, __: (dx[0] * 0.5,))


def forward_of_modules(model: nn.Module) -> None:
    for layer in model[1:]:
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5,))
        layer.register_forward_hook(lambda _, __, output: output + 0.1)


HOOKS: dict[str, Hook] = {
    "accumulated": accumulated,
    "replaced": lambda model: accumulated(model, replace),
    "tensor": on_the_tensor,
    "node": on_the_node,
    "several": several,
    "module_backward": backward_of_modules,
    "module_forward": forward_of_modules,
}


def sgd(hook: Hook, loss_at: Callable[[nn.Module, int], Tensor], num_steps: int) -> nn.Module:
    model = mlp()
    hook(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("in_gemm", [False, True], ids=["hook", "gemm"])
@pytest.mark.parametrize("order", ["first", "between", "last", "in_flight"])
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_a_user_are_honoured(kind: str, order: str, in_gemm: bool) -> None:
    if order == "in_flight" and "module" in kind:
        pytest.skip("it would see the backward of a forward that it has not seen")
    hook = HOOKS[kind]
    model = mlp()
    if order == "first":
        hook(model)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    if order == "between":
        hook(model)
    if in_gemm:
        try:
            update_in_gemm(optimizer, model)
        except ValueError as error:  # all weights have hooks
            assert "without hooks of others" in str(error)
    if order == "last":
        hook(model)
    for step in range(3):
        loss = mlp_loss(model, step)
        if order == "in_flight" and step == 0:
            hook(model)
        optimizer.backward(loss)
        optimizer.step()
    reference = sgd(hook, mlp_loss, 3)
    assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING


@pytest.mark.parametrize("make", [Lomo, AdaLomo])
@pytest.mark.parametrize("max_grad_norm", [None, 0.3])
@pytest.mark.parametrize("use_reentrant", [None, False, True])
def test_a_hook_that_comes_after_ours(
    make: Callable[..., Any], max_grad_norm: float | None, use_reentrant: bool | None
) -> None:
    """Its change counts in the norm and in the update, as if it had been there first."""
    found, norms = [], []
    for order in ("first", "last"):
        model = mlp()
        if order == "first":
            accumulated(model)
        optimizer = make(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm)
        if order == "last":
            accumulated(model)
        for step in range(2):
            hidden = model[0](torch.arange(10).view(2, 5))
            if use_reentrant is not None:
                hidden = checkpoint(model[1:], hidden, use_reentrant=use_reentrant)
            else:
                hidden = model[1:](hidden)
            optimizer.backward(hidden.square().mean() + step)
            assert all(p.grad is None for p in model.parameters())
            optimizer.step()
        found.append(weights(model))
        norms.append(optimizer.grad_norm)
    assert max_difference(*found) == 0.0
    assert norms[0] == norms[1]


def test_a_hook_of_a_user_keeps_its_gradient_for_one_backward_only() -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = Lomo([parameter], lr=0.5)
    seen: list[Any] = []
    parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    for _ in range(3):
        parameter.sum().backward()
        optimizer.step()
    assert [gradient.tolist() for gradient in seen] == [[1.0, 1.0]] * 3
    assert parameter.tolist() == [-0.5, -0.5]
    hooks: Any = parameter._post_accumulate_grad_hooks
    assert isinstance(list(hooks.values())[-1], GradientHook)


def test_a_hook_that_keeps_the_gradient_for_itself() -> None:
    parameter = nn.Parameter(torch.ones(2))

    def take(p: Tensor) -> None:
        p.grad = None

    optimizer = Lomo([parameter], lr=0.5)
    parameter.register_post_accumulate_grad_hook(take)
    parameter.sum().backward()
    with pytest.warns(UserWarning, match="a hook of your own"):
        optimizer.step()
    assert parameter.tolist() == [1.0, 1.0]


def test_names_leave_out_weights_with_hooks() -> None:
    model = mlp()
    model[1].weight.register_post_accumulate_grad_hook(halve)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    assert update_in_gemm(optimizer, model) == ["0.weight", "3.weight"]


PARAMETRIZED: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.4),
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", nn.Tanh()),
}


@pytest.mark.parametrize("kind", PARAMETRIZED)
@pytest.mark.parametrize("later", [False, True])
def test_parametrized_weights_keep_the_hook(kind: str, later: bool) -> None:
    """Also a weight that was an ordinary one when update_in_gemm was called."""
    found = []
    for in_gemm in (False, True):
        model = mlp()
        torch.manual_seed(1)
        if not later or not in_gemm:
            PARAMETRIZED[kind](model[1])
        early: Any = Lomo(model.parameters(), lr=0.1) if in_gemm else None
        if in_gemm:
            update_in_gemm(early, model)
        if later and in_gemm:
            PARAMETRIZED[kind](model[1])
            early.close()
            early = Lomo(model.parameters(), lr=0.1)
            update_in_gemm(early, model)
        optimizer = early or torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
        for step in range(3):
            mlp_loss(model, step).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(weights(model))
    assert max_difference(*found) <= ONE_ROUNDING


@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_a_dropped_optimizer_takes_its_hooks_along(make: Callable[..., Any]) -> None:
    model = mlp()
    for _ in range(3):
        optimizer = make(model.parameters(), lr=0.1)
        if make is Lomo:
            update_in_gemm(optimizer, model)
        gone = weakref.ref(optimizer)
        del optimizer
        assert gone() is None  # at once: nothing waits for the garbage collector
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    with pytest.raises(ValueError, match="lr"):
        make(model.parameters(), lr=-1.0)
    optimizer = make(model.parameters(), lr=0.1)
    assert all(len(p._post_accumulate_grad_hooks) == 1 for p in model.parameters())
    optimizer.close()


def test_an_optimizer_keeps_no_model_alive_when_it_is_dropped() -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    parameter = weakref.ref(model[1].weight)
    del optimizer, model
    gc.collect()
    assert parameter() is None


def test_hooks_after_the_end_are_those_of_others() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.register_post_accumulate_grad_hook(halve)
    optimizer = Lomo([parameter], lr=0.1)
    optimizer.close()
    parameter.sum().backward()
    assert parameter.grad is not None and parameter.grad.tolist() == [0.5, 0.5]


def gemm(model: nn.Sequential) -> Lomo:
    optimizer = Lomo(model.parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    assert isinstance(model[0], (InGemmLinear, InGemmEmbedding))
    return optimizer


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own, in jvp
def test_torch_func_over_in_gemm_modules() -> None:
    model, plain = mlp()[1:], mlp()[1:]
    optimizer = gemm(model)
    before = weights(model)
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    func = torch.func

    def results(module: nn.Module) -> list[Any]:
        def loss(values: Tensor) -> Tensor:
            return module(values).square().sum()

        def of_parameters(parameters: dict[str, Tensor], values: Tensor) -> Tensor:
            return func.functional_call(module, parameters, (values,)).square().sum()

        parameters = dict(module.named_parameters())
        found = func.vmap(func.grad(of_parameters), in_dims=(None, 0))(parameters, x)
        return [
            func.grad(loss)(x),
            func.vmap(func.grad(loss))(x),
            func.jacrev(module)(x[0]),
            func.jvp(module, (x,), (torch.ones_like(x),))[1],
            *found.values(),
        ]

    for actual, expected in zip(results(model), results(plain), strict=True):
        torch.testing.assert_close(actual, expected)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangents = [torch.autograd.forward_ad.unpack_dual(m(dual)).tangent for m in (model, plain)]
    torch.testing.assert_close(*tangents)
    assert max_difference(weights(model), before) == 0.0

    func.vmap(model)(x).square().sum().backward()  # trains as ever
    optimizer.step()
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1, foreach=False)
    func.vmap(plain)(x).square().sum().backward()
    sgd.step()
    assert max_difference(weights(model), weights(plain)) <= ONE_ROUNDING


def test_a_second_derivative_is_refused_before_anything_moves() -> None:
    model = mlp()[1:]
    optimizer = gemm(model)
    before = weights(model)
    x = torch.ones(2, 12, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"second derivative.*without update_in_gemm"):
        torch.autograd.grad(model(x).sum(), x, create_graph=True)
    assert max_difference(weights(model), before) == 0.0
    optimizer.close()
    torch.autograd.grad(model(x).square().sum(), x, create_graph=True)[0].sum().backward()


def test_a_hook_that_only_observes_changes_nothing() -> None:
    """As those of the memory's meter: no gradient is kept for it, and the product still updates."""
    model = mlp()
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    seen: list[bool] = []
    for parameter in model.parameters():
        hook = observing(lambda p: seen.append(p.grad is None))
        parameter.register_post_accumulate_grad_hook(hook)
    assert len(update_in_gemm(optimizer, model)) == 3
    mlp_loss(model, 0).backward()
    assert len(seen) == 5 and all(seen)
