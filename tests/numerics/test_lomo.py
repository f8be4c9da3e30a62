"""Lomo computes what torch.optim.SGD computes, and holds one gradient at a time."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lomo.optim import Lomo

from .models import CHECKPOINTING, assert_bit_equal, llama, loss_of, max_difference, weights
from .reference import sgd_on_fp32_copy

# What float16 needs is tested in test_loss_scale.py; here it is one of the dtypes.
pytestmark = pytest.mark.filterwarnings("ignore:float16 weights without a loss scale")

LR = 0.1
NUM_STEPS = 10


def train_lomo(model: nn.Module, num_steps: int = NUM_STEPS, **options: Any) -> Lomo:
    optimizer = Lomo(model.parameters(), lr=LR, **options)
    for step in range(num_steps):
        loss = loss_of(model, step)
        if optimizer.max_grad_norm is None:
            loss.backward()
        else:
            optimizer.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def train_sgd(
    model: nn.Module, max_grad_norm: float | None = None, weight_decay: float = 0.0
) -> list[float]:
    """The reference loop; returns the norms before clipping."""
    params = list(model.parameters())
    optimizer = torch.optim.SGD(params, lr=LR, weight_decay=weight_decay, foreach=False)
    norms = []
    for step in range(NUM_STEPS):
        loss_of(model, step).backward()
        if max_grad_norm is not None:
            norms.append(float(nn.utils.clip_grad_norm_(params, max_grad_norm, foreach=False)))
        optimizer.step()
        optimizer.zero_grad()
    return norms


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_fp32_equals_sgd_bit_for_bit(tied: bool, checkpointing: str, weight_decay: float) -> None:
    ours, theirs = (llama(tied=tied, checkpointing=checkpointing) for _ in range(2))
    start = weights(ours)
    train_lomo(ours, weight_decay=weight_decay)
    train_sgd(theirs, weight_decay=weight_decay)
    assert_bit_equal(weights(ours), weights(theirs))
    # Every parameter moved, the first and the last of the graph with the rest.
    assert all(not torch.equal(start[name], after) for name, after in weights(ours).items())


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("max_grad_norm", [0.5, 1e6], ids=["clips", "does_not_clip"])
def test_clipping_equals_clip_grad_norm_and_sgd(
    tied: bool, checkpointing: str, max_grad_norm: float
) -> None:
    ours, theirs = (llama(tied=tied, checkpointing=checkpointing) for _ in range(2))
    optimizer = train_lomo(ours, max_grad_norm=max_grad_norm)
    norms = train_sgd(theirs, max_grad_norm=max_grad_norm)
    assert 0.5 < norms[-1] < 1e6  # so that the two ids say the truth
    assert max_difference(weights(ours), weights(theirs)) <= 1e-6
    assert optimizer.grad_norm == pytest.approx(norms[-1], rel=1e-6)


def test_clipping_with_weight_decay() -> None:
    ours, theirs = llama(), llama()
    train_lomo(ours, max_grad_norm=0.5, weight_decay=0.1)
    train_sgd(theirs, max_grad_norm=0.5, weight_decay=0.1)
    assert max_difference(weights(ours), weights(theirs)) <= 1e-6


def test_backward_of_the_optimizer_is_backward_of_the_loss_without_clipping() -> None:
    ours, theirs = llama(), llama()
    optimizer = Lomo(ours.parameters(), lr=LR)
    for step in range(NUM_STEPS):
        optimizer.backward(loss_of(ours, step))
        optimizer.step()
    train_lomo(theirs)
    assert_bit_equal(weights(ours), weights(theirs))
    assert optimizer.grad_norm is None


@pytest.mark.parametrize("lr", [0.1, 0.03, 1e-3, 0.125])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_update_equals_fp32_copy(
    dtype: torch.dtype, weight_decay: float, lr: float
) -> None:
    torch.manual_seed(0)
    # More elements than a chunk holds, in a shape that no SIMD width and no chunk divides; and a
    # transposed weight, whose rows are not contiguous.
    for weight in (torch.randn(999, 301), torch.randn(301, 999).t(), torch.randn(())):
        parameter = nn.Parameter(weight.to(dtype))
        gradient = torch.randn(weight.shape).to(dtype)
        expected = sgd_on_fp32_copy(parameter.detach().clone(), gradient, lr, weight_decay)
        optimizer = Lomo([parameter], lr=lr, weight_decay=weight_decay)
        parameter.backward(gradient.clone())
        optimizer.step()
        assert torch.equal(parameter.detach(), expected)


@pytest.mark.parametrize("lr", [0.1, 0.03, 1e-3, 0.125])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_update_and_fused_multiply_add(dtype: torch.dtype, lr: float) -> None:
    # fp32 add_ fuses product and sum where the processor can; Lomo rounds the product to fp32. It
    # shows where both nearly cancel, and where a 16-bit tie lies between the two fp32 results.
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(999, 301).to(dtype))
    gradient = torch.randn(999, 301).to(dtype)
    fused = parameter.detach().float().add_(gradient.float(), alpha=-lr).to(dtype)
    optimizer = Lomo([parameter], lr=lr)
    parameter.backward(gradient)
    optimizer.step()
    assert float((parameter.detach() != fused).float().mean()) < 1e-4
    one_unit, product_rounding = torch.finfo(dtype).eps, 2.0**-24 * lr * float(gradient.abs().max())
    torch.testing.assert_close(parameter.detach(), fused, rtol=one_unit, atol=product_rounding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sixteen_bit_norm_is_summed_in_fp32(dtype: torch.dtype) -> None:
    model = llama(dtype=dtype)
    optimizer = Lomo(model.parameters(), lr=LR, max_grad_norm=1.0)
    reference = llama(dtype=dtype)
    loss_of(reference, 0).backward()
    expected = torch.stack([p.grad.double().norm() for p in reference.parameters()]).norm()
    optimizer.backward(loss_of(model, 0))
    assert optimizer.grad_norm == pytest.approx(float(expected), rel=1e-6)

    large = nn.Parameter(torch.zeros(999, 1001, dtype=dtype))
    optimizer = Lomo([large], lr=LR, max_grad_norm=1.0)
    gradient = torch.randn(999, 1001).to(dtype)
    optimizer.backward((large * gradient).sum(dtype=torch.float32))
    assert optimizer.grad_norm == pytest.approx(float(gradient.double().norm()), rel=1e-6)


def test_gradients_that_share_memory() -> None:
    # Autograd hands `position` a view of the gradient that `weight` is still waiting for.
    results = []
    for make in (Lomo, torch.optim.SGD):
        torch.manual_seed(0)
        position, weight = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(1, 3, 4))
        optimizer = make([position, weight], lr=LR, weight_decay=0.5)
        (2.0 * weight + position.unsqueeze(0)).square().sum().backward()
        optimizer.step()
        results.append({"position": position.detach(), "weight": weight.detach()})
    assert_bit_equal(*results)


def test_scheduler_sets_the_learning_rate() -> None:
    ours, theirs = llama(), llama()
    lomo = Lomo(ours.parameters(), lr=LR)
    sgd = torch.optim.SGD(theirs.parameters(), lr=LR, foreach=False)
    # From 0 up, then down: a schedule may reach 0, though the constructor refuses it.
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda step: [0.0, 0.5, 1.0, 0.3][step % 4])
        for o in (lomo, sgd)
    ]
    for step in range(NUM_STEPS):
        for model, optimizer, schedule in zip((ours, theirs), (lomo, sgd), schedules, strict=True):
            loss_of(model, step).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert_bit_equal(weights(ours), weights(theirs))


def test_groups_have_their_own_options() -> None:
    ours, theirs = llama(), llama()
    results = []
    for model, make in ((ours, Lomo), (theirs, torch.optim.SGD)):
        params = dict(model.named_parameters())
        head = params.pop("lm_head.weight")
        optimizer = make([{"params": list(params.values()), "weight_decay": 0.1}], lr=LR)
        optimizer.add_param_group({"params": [head], "lr": 0.01})
        for step in range(3):
            loss_of(model, step).backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(weights(model))
    assert max_difference(*results) == 0.0


def test_frozen_parameters_and_parameters_without_gradient_stay() -> None:
    model = llama()
    frozen = model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(3))
    before = frozen.detach().clone()
    optimizer = Lomo([*model.parameters(), unused], lr=LR, weight_decay=0.1, max_grad_norm=1.0)
    optimizer.backward(loss_of(model, 0))
    optimizer.step()
    assert torch.equal(frozen, before)
    assert torch.equal(unused.detach(), torch.ones(3))
    assert unused.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_norm_that_is_not_finite_skips_the_whole_step(bad: float) -> None:
    model = llama()
    optimizer = Lomo(model.parameters(), lr=LR, max_grad_norm=1.0)
    before = weights(model)
    loss = loss_of(model, 0)
    optimizer.backward(loss * bad)
    optimizer.step()
    assert_bit_equal(weights(model), before)
    assert optimizer.grad_norm is not None
    assert not torch.tensor(optimizer.grad_norm).isfinite()
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(RuntimeError, match="second time"):  # the graph was freed
        loss.backward()
    # The next good step trains as if the bad one had not been.
    optimizer.backward(loss_of(model, 1))
    optimizer.step()
    other = llama()
    reference = Lomo(other.parameters(), lr=LR, max_grad_norm=1.0)
    reference.backward(loss_of(other, 1))
    assert_bit_equal(weights(model), weights(other))


def test_state_dict_round_trip_and_bitwise_resume() -> None:
    straight, resumed = llama(), llama()
    options = {"weight_decay": 0.01, "max_grad_norm": 0.5}
    first = Lomo(straight.parameters(), lr=LR, **options)
    schedule = torch.optim.lr_scheduler.ExponentialLR(first, 0.9)

    def run(model: nn.Module, optimizer: Lomo, scheduler: Any, steps: range) -> None:
        for step in steps:
            optimizer.backward(loss_of(model, step))
            optimizer.step()
            scheduler.step()

    run(straight, first, schedule, range(5))
    resumed.load_state_dict(straight.state_dict())
    second = Lomo(resumed.parameters(), lr=1.0, **options)
    second_schedule = torch.optim.lr_scheduler.ExponentialLR(second, 0.9)
    second.load_state_dict(first.state_dict())
    second_schedule.load_state_dict(schedule.state_dict())
    assert second.state_dict() == first.state_dict()
    run(straight, first, schedule, range(5, 10))
    run(resumed, second, second_schedule, range(5, 10))
    assert_bit_equal(weights(resumed), weights(straight))


@pytest.mark.parametrize("max_grad_norm", [None, 0.5], ids=["no_clip", "clip"])
@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_at_most_one_gradient_is_alive(checkpointing: str, max_grad_norm: float | None) -> None:
    model = llama(checkpointing=checkpointing)
    params = list(model.parameters())
    storages: list[weakref.ref[torch.UntypedStorage]] = []

    def before_accumulation(gradient: Tensor) -> None:
        # Storages, not tensors: a storage dies when nobody, autograd included, holds the bytes.
        assert all(storage() is None for storage in storages)
        assert all(p.grad is None for p in params)
        storages.append(weakref.ref(gradient.untyped_storage()))

    for parameter in params:
        parameter.register_hook(before_accumulation)
    optimizer = Lomo(params, lr=LR, max_grad_norm=max_grad_norm)
    optimizer.backward(loss_of(model, 0))
    optimizer.step()
    assert len(storages) == len(params) * (1 if max_grad_norm is None else 2)
    assert all(storage() is None for storage in storages)


def test_hook_looks_at_no_other_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    params = [nn.Parameter(torch.ones(2)) for _ in range(50)]
    optimizer = Lomo(params, lr=LR)
    calls = []
    update = optimizer._update
    monkeypatch.setattr(optimizer, "_update", lambda p, *rest: (calls.append(p), update(p, *rest)))
    sum(p.sum() for p in params).backward()
    assert len(calls) == len(params)
    assert {id(p) for p in calls} == {id(p) for p in params}


def test_a_function_that_gives_no_gradient_is_passed_over() -> None:
    # torch 2.13 calls the hook of a parameter all the same.
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, parameter: Tensor, x: Tensor) -> Tensor:
            return parameter * x

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
            return None, gradient

    constant, other = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = Lomo([constant, other], lr=LR)
    Scale.apply(constant, other).sum().backward()
    optimizer.step()
    assert torch.equal(constant.detach(), torch.ones(2))
    assert torch.equal(other.detach(), torch.full((2,), 1.0 - LR))
