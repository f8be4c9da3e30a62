"""Ways to clip: whose norm, and by value; each against torch after a plain backward."""

from typing import Any

import pytest
import torch
from torch import nn

from lomo.optim import AdaLomo, Lomo

from .models import assert_bit_equal, llama, loss_of, max_difference, weights

LR = 0.1
LIMIT = 0.2


def reference(num_steps: int, clip: Any, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """SGD with `clip(parameters, step)` between backward and step; the weights at the end."""
    model = llama(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, foreach=False)
    for step in range(num_steps):
        loss_of(model, step).backward()
        clip(list(model.parameters()), step)
        optimizer.step()
        optimizer.zero_grad()
    return weights(model)


@pytest.mark.parametrize("fused", [False, True], ids=["loss.backward", "optimizer.backward"])
def test_parameter_scope_clips_each_gradient_by_its_own_norm(fused: bool) -> None:
    def clip(parameters: list[nn.Parameter], step: int) -> None:
        for parameter in parameters:
            nn.utils.clip_grad_norm_([parameter], LIMIT, foreach=False)

    model = llama()
    optimizer = Lomo(model.parameters(), lr=LR, max_grad_norm=LIMIT, norm_scope="parameter")
    for step in range(5):
        loss = loss_of(model, step)
        optimizer.backward(loss) if fused else loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert max_difference(weights(model), reference(5, clip)) <= 1e-6


@pytest.mark.parametrize("scope", ["global", "parameter"])
def test_a_norm_as_small_as_torchs_epsilon(scope: Any) -> None:
    weight, expected = (nn.Parameter(torch.zeros(4)) for _ in range(2))
    optimizer = Lomo([weight], lr=1.0, max_grad_norm=1e-6, norm_scope=scope)
    optimizer.backward(weight.sum() * 1e-6)
    (expected.sum() * 1e-6).backward()
    nn.utils.clip_grad_norm_([expected], 1e-6, foreach=False)
    torch.testing.assert_close(-weight.detach(), expected.grad, rtol=1e-6, atol=0.0)


def test_parameter_scope_reports_the_global_norm() -> None:
    model, other = llama(), llama()
    optimizer = Lomo(model.parameters(), lr=LR, max_grad_norm=LIMIT, norm_scope="parameter")
    loss_of(model, 0).backward()
    optimizer.step()
    loss_of(other, 0).backward()
    norm = nn.utils.clip_grad_norm_(other.parameters(), LIMIT, foreach=False)
    assert optimizer.grad_norm == pytest.approx(float(norm), rel=1e-6)


def test_previous_step_scope_is_one_step_late() -> None:
    norms: list[torch.Tensor] = []

    def clip(parameters: list[nn.Parameter], step: int) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms.append(nn.utils.get_total_norm(gradients, foreach=False))
        norm = norms[max(0, step - 1)]  # the first step has no earlier one: it is exact
        for gradient in gradients:
            gradient.mul_(torch.clamp(LIMIT / (norm + 1e-6), max=1.0))

    model = llama()
    optimizer = Lomo(model.parameters(), lr=LR, max_grad_norm=LIMIT, norm_scope="previous_step")
    for step in range(5):
        optimizer.backward(loss_of(model, step))
        optimizer.step()
    assert max_difference(weights(model), reference(5, clip)) <= 1e-6
    assert optimizer.grad_norm == pytest.approx(float(norms[-1]), rel=1e-5)


@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_previous_step_scope_takes_one_pass_after_the_first(make: Any) -> None:
    model = llama()
    passes: list[int] = []
    model.lm_head.weight.register_hook(lambda _: passes.append(1))
    optimizer = make(model.parameters(), lr=LR, max_grad_norm=LIMIT, norm_scope="previous_step")
    for step in range(3):
        optimizer.backward(loss_of(model, step))
        optimizer.step()
    assert len(passes) == 2 + 1 + 1
    # A bad step leaves no norm to clip the next one by, so the next one is exact again.
    optimizer.backward(loss_of(model, 3) * float("nan"))
    optimizer.step()
    optimizer.backward(loss_of(model, 4))
    assert len(passes) == 4 + 1 + 2


@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_previous_norm_survives_a_resume(make: Any) -> None:
    def run(model: nn.Module, optimizer: Any, steps: range) -> None:
        for step in steps:
            optimizer.backward(loss_of(model, step))
            optimizer.step()

    options = {"lr": LR, "max_grad_norm": LIMIT, "norm_scope": "previous_step"}
    straight, resumed = llama(), llama(seed=1)
    first = make(straight.parameters(), **options)
    run(straight, first, range(3))
    resumed.load_state_dict(straight.state_dict())
    second = make(resumed.parameters(), **options)
    second.load_state_dict(first.state_dict())
    run(straight, first, range(3, 6))
    run(resumed, second, range(3, 6))
    assert_bit_equal(weights(resumed), weights(straight))


@pytest.mark.parametrize("scope", ["global", "parameter"])
@pytest.mark.parametrize("make", [Lomo, AdaLomo])
def test_nan_loss_moves_no_weight(make: Any, scope: Any) -> None:
    model = llama()
    before = weights(model)
    optimizer = make(model.parameters(), lr=LR, max_grad_norm=LIMIT, norm_scope=scope)
    optimizer.backward(loss_of(model, 0) * float("nan"))
    optimizer.step()
    assert_bit_equal(weights(model), before)
    assert optimizer.skipped


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_clip_value(weight_decay: float, dtype: torch.dtype) -> None:
    limit = 0.003
    torch.manual_seed(0)
    weight = torch.randn(999, 301).to(dtype)
    gradient = (torch.randn(999, 301) * 0.01).to(dtype)
    copy = weight.float()
    step = gradient.float().clamp(-limit, limit).add(copy, alpha=weight_decay)
    expected = copy.add(step, alpha=-LR).to(dtype)
    parameter = nn.Parameter(weight.clone())
    optimizer = Lomo([parameter], lr=LR, clip_value=limit, weight_decay=weight_decay)
    parameter.backward(gradient.clone())
    optimizer.step()
    assert torch.equal(parameter.detach(), expected)


def test_clip_value_on_a_model() -> None:
    def clip(parameters: list[nn.Parameter], step: int) -> None:
        nn.utils.clip_grad_value_(parameters, 0.01)

    model = llama()
    optimizer = Lomo(model.parameters(), lr=LR, clip_value=0.01)
    for step in range(5):
        loss_of(model, step).backward()
        optimizer.step()
    assert max_difference(weights(model), reference(5, clip)) <= 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_value": 0.0}, "clip_value must be a finite number above 0"),
        ({"clip_value": 1.0, "max_grad_norm": 1.0}, "not both"),
        ({"norm_scope": "layer", "max_grad_norm": 1.0}, "global, parameter, previous_step"),
        ({"norm_scope": "parameter"}, "needs max_grad_norm"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lomo([nn.Parameter(torch.ones(2))], lr=LR, **options)


def test_a_coefficient_that_stays_on_its_device() -> None:
    # On a GPU the coefficient of a parameter's own norm is a tensor; here it is given by hand.
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        results = []
        for scale in (0.25, torch.tensor(0.25)):
            parameter = nn.Parameter(torch.ones(999, 301, dtype=dtype) * 0.7)
            optimizer = Lomo([parameter], lr=LR)
            gradient = torch.full_like(parameter, 0.3)
            slot = optimizer._slots[parameter]
            with torch.no_grad():
                optimizer._update(parameter, gradient, slot, scale)
            results.append(parameter.detach().clone())
            with torch.no_grad():  # 0 says that the gradient was not finite
                gradient.fill_(float("inf"))
                optimizer._update(parameter, gradient, slot, torch.tensor(0.0))
            assert torch.equal(parameter.detach(), results[-1])
        assert torch.equal(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_default_dtype_does_not_round_the_norm(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.zeros(3))
    optimizer = Lomo([weight], lr=1.0, max_grad_norm=0.3)
    torch.set_default_dtype(dtype)
    try:
        optimizer.backward((weight * 100001.0).sum())
    finally:
        torch.set_default_dtype(torch.float32)
    assert optimizer.grad_norm == pytest.approx(100001.0 * 3**0.5, rel=1e-6)
    assert float(weight.detach().norm()) == pytest.approx(0.3, rel=1e-6)


def test_a_coefficient_among_fp64_is_of_fp64() -> None:
    params = [nn.Parameter(torch.zeros(3, dtype=torch.float64)), nn.Parameter(torch.zeros(4))]
    optimizer = Lomo(params, lr=1.0, max_grad_norm=0.3)
    optimizer.backward(sum(p.sum() for p in params))
    expected = torch.full((3,), -0.3 / (7.0**0.5 + 1e-6), dtype=torch.float64)
    torch.testing.assert_close(params[0].detach(), expected, rtol=1e-12, atol=0.0)
