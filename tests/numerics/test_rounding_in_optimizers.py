"""Stochastic rounding inside the optimizers: unbiased steps, resume, and what it is for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lomo.optim import AdaLomo, Lomo

from .models import assert_bit_equal, llama, loss_of, weights

sixteen_bit = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
# What float16 needs is tested in test_loss_scale.py.
pytestmark = pytest.mark.filterwarnings("ignore:float16 weights without a loss scale")


@sixteen_bit
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"clip_value": 0.5}], ids=str)
def test_update_is_unbiased(dtype: torch.dtype, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    weight = (torch.randn(301, 99) * 0.02).to(dtype)
    gradient = torch.randn(301, 99).to(dtype)
    lr, num_draws = 1e-5, 300
    step = gradient.double()
    if "clip_value" in options:
        step = step.clamp(-0.5, 0.5)
    intended = weight.double() - lr * (step + options.get("weight_decay", 0.0) * weight.double())
    total = torch.zeros(301, 99, dtype=torch.float64)
    for seed in range(num_draws):
        parameter = nn.Parameter(weight.clone())
        optimizer = Lomo([parameter], lr=lr, rounding="stochastic", seed=seed, **options)
        parameter.backward(gradient.clone())
        optimizer.step()
        total += parameter.detach().double()
    # Within a unit u of its place a draw varies by at most u/2: z-scores over all elements.
    unit = weight.double().abs() * torch.finfo(dtype).eps
    z = (total / num_draws - intended) / (0.5 * unit.clamp(min=2.0**-24) / num_draws**0.5)
    assert float(z.abs().max()) < 5.5
    assert abs(float(z.mean())) < 5 / z.numel() ** 0.5


def test_share_of_the_intended_step_at_the_step_sizes_of_7b() -> None:
    # LLaMA-7B at lr 0.03 and norm 1: an RMS step of 3.7e-7 on weights of 0.02.
    def share(rounding: Any) -> float:
        torch.manual_seed(0)
        parameter = nn.Parameter((torch.randn(1024, 2048) * 0.02).bfloat16())
        before = parameter.detach().double()
        optimizer = Lomo([parameter], lr=1.0, rounding=rounding)
        intended = torch.zeros_like(before)
        for _ in range(20):
            gradient = (torch.randn(1024, 2048) * 3.7e-7).bfloat16()
            intended -= gradient.double()
            parameter.backward(gradient)
            optimizer.step()
        applied = parameter.detach().double() - before
        return float((applied * intended).sum() / intended.square().sum())

    assert 0.97 <= share("stochastic") <= 1.03
    assert share("nearest") < 0.15


@sixteen_bit
def test_adalomo_rounds_stochastically(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, gradient = (torch.randn(64, 48) * 0.02).to(dtype), torch.randn(64, 48).to(dtype)
    exact = nn.Parameter(weight.float())
    optimizer = AdaLomo([exact], lr=1e-5)
    exact.backward(gradient.float())
    total = torch.zeros(64, 48, dtype=torch.float64)
    for seed in range(200):
        parameter = nn.Parameter(weight.clone())
        optimizer = AdaLomo([parameter], lr=1e-5, rounding="stochastic", seed=seed)
        parameter.backward(gradient.clone())
        optimizer.step()
        total += parameter.detach().double()
    unit = weight.double().abs() * torch.finfo(dtype).eps
    error = 0.5 * unit.clamp(min=2.0**-24) / 200**0.5
    z = (total / 200 - exact.detach().double()) / error
    assert float(z.abs().max()) < 5.5


def test_fp32_weights_are_not_rounded() -> None:
    results = []
    for rounding in ("nearest", "stochastic"):
        model = llama()
        optimizer = Lomo(model.parameters(), lr=0.1, rounding=rounding)
        loss_of(model, 0).backward()
        optimizer.step()
        results.append(weights(model))
    assert_bit_equal(*results)


@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_resume_is_bitwise(make: Any) -> None:
    def run(model: nn.Module, optimizer: Any, steps: range) -> None:
        for step in steps:
            loss_of(model, step).backward()
            optimizer.step()

    options = {"lr": 1e-3, "rounding": "stochastic"}
    straight, resumed = (llama(seed=seed, dtype=torch.bfloat16) for seed in (0, 1))
    first = make(straight.parameters(), **options)
    run(straight, first, range(3))
    resumed.load_state_dict(straight.state_dict())
    second = make(resumed.parameters(), **options)
    second.load_state_dict(first.state_dict())
    run(straight, first, range(3, 6))
    run(resumed, second, range(3, 6))
    assert_bit_equal(weights(resumed), weights(straight))


def test_scratch_is_a_chunk() -> None:
    class Largest(TorchDispatchMode):
        num_bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result._base is None:
                known = [a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)]
                if result.untyped_storage().data_ptr() not in known:
                    self.num_bytes = max(self.num_bytes, result.untyped_storage().nbytes())
            return result

    parameter = nn.Parameter(torch.zeros(2048, 2048, dtype=torch.bfloat16))
    optimizer = Lomo([parameter], lr=0.1, rounding="stochastic")
    gradient = torch.ones_like(parameter)
    with Largest() as largest, torch.no_grad():
        optimizer._update(parameter, gradient, optimizer._slots[parameter], 1.0)
    assert 0 < largest.num_bytes <= 4 * (1 << 16)


def test_unknown_rounding() -> None:
    with pytest.raises(ValueError, match="nearest, stochastic"):
        Lomo([nn.Parameter(torch.ones(2))], lr=0.1, rounding="up")  # type: ignore[arg-type]
