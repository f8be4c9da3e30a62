"""The update inside the weight-gradient product: the same step, and no gradient matrix."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from lomo.optim import Lomo
from lomo.optim.arithmetic import ghost_norms as ghost
from lomo.optim.in_gemm import update_in_gemm
from tests.numerics.in_gemm import ONE_ROUNDING, mlp, mlp_loss, train_in_gemm, train_sgd
from tests.numerics.models import CHECKPOINTING, llama, loss_of, max_difference, weights


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_steps_are_those_of_sgd(
    checkpointing: str, max_grad_norm: float | None, weight_decay: float
) -> None:
    reference, model = llama(), llama(checkpointing=checkpointing)
    options = {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
    expected = train_sgd(reference, loss_of, **options)
    actual = train_in_gemm(model, loss_of, **options)
    assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING
    if max_grad_norm is not None:
        assert actual == pytest.approx(expected, rel=2e-6)
        assert min(expected) > max_grad_norm  # it did clip


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_grad_norm", [None, 0.1])
def test_biases_padding_and_repeated_ids(max_grad_norm: float | None, weight_decay: float) -> None:
    reference, model = mlp(), mlp()
    options = {"weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
    expected = train_sgd(reference, mlp_loss, **options)
    actual = train_in_gemm(model, mlp_loss, **options)
    assert max_difference(weights(model), weights(reference)) <= ONE_ROUNDING
    if max_grad_norm is not None:
        assert actual == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_batch_without_tokens(max_grad_norm: float | None, dtype: torch.dtype) -> None:
    """As an expert that no token was sent to has it."""
    model = mlp(dtype)
    before = weights(model)
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm)
    update_in_gemm(optimizer, model)
    optimizer.backward(model(torch.zeros(2, 0, dtype=torch.int64)).sum())
    assert max_difference(weights(model), before) == 0.0


def test_ids_of_32_bits() -> None:
    models = mlp(), mlp()
    for model, dtype in zip(models, (torch.int32, torch.int64), strict=True):
        optimizer = Lomo(model.parameters(), lr=0.1)
        update_in_gemm(optimizer, model)
        model(torch.tensor([[1, 2, 1]], dtype=dtype)).square().sum().backward()
    assert max_difference(*map(weights, models)) == 0.0


def test_clipping_each_parameter_by_its_own_norm() -> None:
    by_hook, in_gemm = llama(), llama()
    options = {"lr": 0.1, "max_grad_norm": 0.05, "norm_scope": "parameter"}
    optimizer = Lomo(by_hook.parameters(), **options)
    for step in range(3):
        optimizer.backward(loss_of(by_hook, step))
        optimizer.step()
    train_in_gemm(in_gemm, loss_of, num_steps=3, **options)
    assert max_difference(weights(in_gemm), weights(by_hook)) <= ONE_ROUNDING


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_loss_scale_is_taken_out(max_grad_norm: float | None) -> None:
    plain, scaled = llama(), llama()
    train_in_gemm(plain, loss_of, num_steps=3, max_grad_norm=max_grad_norm)
    options = {"max_grad_norm": max_grad_norm, "loss_scale": 1024.0}
    train_in_gemm(scaled, loss_of, num_steps=3, **options)
    assert max_difference(weights(scaled), weights(plain)) <= ONE_ROUNDING


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_gradient_that_is_not_finite_moves_nothing(max_grad_norm: float | None) -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm, loss_scale=2.0)
    update_in_gemm(optimizer, model)
    before = weights(model)
    optimizer.backward(mlp_loss(model, 0) * torch.inf)
    optimizer.step()
    assert optimizer.skipped
    assert max_difference(weights(model), before) == 0.0


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("factor", [0.5, 0.0])
def test_a_coefficient_on_the_device(
    monkeypatch: pytest.MonkeyPatch, factor: float, weight_decay: float
) -> None:
    """On a GPU the coefficient is a tensor: 0 says that the gradient is not finite."""
    models = mlp(), mlp()
    before = weights(models[0])
    for model, scale in zip(models, (torch.tensor(factor), factor or None), strict=True):
        optimizer = Lomo(model.parameters(), lr=0.1, weight_decay=weight_decay)
        update_in_gemm(optimizer, model)
        monkeypatch.setattr(optimizer, "_coefficient", lambda slot, norm_of, scale=scale: scale)
        mlp_loss(model, 0).backward()
    on_device, on_host = map(weights, models)
    assert max_difference(on_device, on_host) <= ONE_ROUNDING
    assert (max_difference(on_device, before) == 0.0) == (factor == 0.0)


def test_bf16_is_no_further_from_fp32_than_sgd() -> None:
    exact = llama(dtype=torch.bfloat16).float()
    sgd, model = llama(dtype=torch.bfloat16), llama(dtype=torch.bfloat16)
    train_sgd(exact, loss_of, lr=0.3, num_steps=3)
    train_sgd(sgd, loss_of, lr=0.3, num_steps=3)
    train_in_gemm(model, loss_of, lr=0.3, num_steps=3)

    def distance(other: nn.Module) -> float:
        pairs = zip(other.parameters(), exact.parameters(), strict=True)
        return sum(float((p.detach().float() - e.detach()).square().sum()) for p, e in pairs)

    assert distance(model) <= distance(sgd)


@pytest.mark.parametrize("lr", [0.1, 0.03, 1e-3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("num_tokens", [5, 3000])
def test_16_bit_products_round_the_weight_once(
    num_tokens: int, weight_decay: float, lr: float
) -> None:
    """Neither the step size nor the sum over tokens is rounded to 16 bits on the way."""
    torch.manual_seed(0)
    layer = nn.Linear(40, 24, bias=False).bfloat16()
    x, dy = torch.randn(num_tokens, 40).bfloat16(), torch.randn(num_tokens, 24).bfloat16()
    weight = layer.weight.detach().double()
    step = dy.double().t() @ x.double() + weight_decay * weight
    exact = weight - lr * step
    optimizer = Lomo(layer.parameters(), lr=lr, weight_decay=weight_decay)
    update_in_gemm(optimizer, layer)
    layer(x).backward(dy)
    half_ulp = exact.abs() * 2.0**-8
    # fp32 sums over all tokens, and half a unit of the last of 8 bits.
    slack = 1e-6 * num_tokens * lr
    assert ((layer.weight.double() - exact).abs() <= half_ulp + slack).all()


class Sizes(TorchDispatchMode):
    """Notes how many elements each new storage has."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in args if isinstance(t, Tensor)}
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in known:
                self.seen.add(tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("norm_scope", ["global", "parameter"])
@pytest.mark.parametrize("num_tokens", [3, 200])
def test_no_tensor_of_a_matrixs_size(
    num_tokens: int, norm_scope: str, max_grad_norm: float | None
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 37), nn.Linear(37, 41), nn.Linear(41, 47))
    sizes = {layer.weight.numel() for layer in model}
    scope = "global" if max_grad_norm is None else norm_scope
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=max_grad_norm, norm_scope=scope)
    update_in_gemm(optimizer, model)
    loss = model(torch.arange(num_tokens) % 50).square().sum()
    with Sizes() as in_gemm:
        optimizer.backward(loss)
    assert not sizes & in_gemm.seen
    optimizer.close()
    loss = model(torch.arange(num_tokens) % 50).square().sum()
    with Sizes() as ordinary:
        loss.backward()
    assert sizes <= ordinary.seen


def test_runs_on_fake_tensors() -> None:
    with FakeTensorMode():
        for dtype in (torch.float32, torch.bfloat16):
            layers = (
                nn.Embedding(500, 64, dtype=dtype),
                nn.Linear(64, 96, dtype=dtype),
                nn.Linear(96, 500, dtype=dtype),
            )
            model = nn.Sequential(*layers)
            optimizer = Lomo(model.parameters(), lr=0.1)
            update_in_gemm(optimizer, model)
            for num_tokens in (8, 900):
                ids = torch.zeros(2, num_tokens, dtype=torch.int64)
                optimizer.backward(model(ids).float().sum())
                optimizer.step()
                x = torch.randn(num_tokens, 400, dtype=dtype)
                assert ghost.linear_gradient_norm(x, x).shape == ()
                assert ghost.EmbeddingGradient(ids[0], x, 1).norm().shape == ()
            optimizer.close()


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("in_gemm", [False, True], ids=["hook", "gemm"])
def test_fp64_stays_fp64(in_gemm: bool, max_grad_norm: float | None) -> None:
    """Decay reaches rows that no token has, and must not round them; norms are fp64 as well."""
    model, reference = mlp(torch.float64), mlp(torch.float64)
    options: dict[str, Any] = {"weight_decay": 0.3, "max_grad_norm": max_grad_norm}
    expected = train_sgd(reference, mlp_loss, **options)
    norms: list[Any] = []
    if in_gemm:
        norms += train_in_gemm(model, mlp_loss, **options)
    else:
        optimizer = Lomo(model.parameters(), lr=0.1, **options)
        for step in range(5):
            optimizer.backward(mlp_loss(model, step))
            optimizer.step()
            norms.append(optimizer.grad_norm)
    assert max_difference(weights(model), weights(reference)) <= 1e-14
    if max_grad_norm is not None:
        assert norms == pytest.approx(expected, rel=1e-14)
