"""Loss scaling for float16: what it saves, what it skips, how it grows and halves, and resumes."""

from typing import Any

import pytest
import torch
from torch import nn

from lomo.optim import AdaLomo, Lomo
from lomo.optim.arithmetic import scaling as scaling

from .models import assert_bit_equal, llama, loss_of, max_difference, weights

both = pytest.mark.parametrize("make", [Lomo, AdaLomo])
scopes = pytest.mark.parametrize(
    "clipping",
    [{}, {"max_grad_norm": 0.5}, {"max_grad_norm": 0.5, "norm_scope": "parameter"}],
    ids=["unclipped", "global", "parameter"],
)


@both
@scopes
def test_scaling_by_a_power_of_two_changes_nothing_in_fp32(make: Any, clipping: Any) -> None:
    results = []
    for scale in (None, "dynamic", 1024.0):
        model = llama()
        optimizer = make(model.parameters(), lr=0.01, loss_scale=scale, **clipping)
        for step in range(3):
            optimizer.backward(loss_of(model, step))
            optimizer.step()
        results.append(weights(model))
    assert max_difference(results[0], results[1]) <= 1e-7
    assert max_difference(results[0], results[2]) <= 1e-7


def test_small_gradients_survive_in_float16() -> None:
    def trained(scale: Any) -> float:
        weight = nn.Parameter(torch.zeros((), dtype=torch.float16))
        optimizer = Lomo([weight], lr=1e8, loss_scale=scale)
        small = torch.tensor(2.0**-10, dtype=torch.float16)
        # The gradient, 2^-30, is below the smallest float16; 2^-15 times larger it is not.
        optimizer.backward((weight * small).float() * 2.0**-20)
        optimizer.step()
        return float(weight.detach())

    with pytest.warns(UserWarning, match="float16 weights without a loss scale"):
        model = nn.Parameter(torch.zeros((), dtype=torch.float16))
        optimizer = Lomo([model], lr=1e8)
        optimizer.backward((model * torch.tensor(2.0**-10).half()).float() * 2.0**-20)
        assert float(model.detach()) == 0.0
    assert trained("dynamic") == pytest.approx(-1e8 * 2.0**-30, rel=1e-3)


@both
def test_overflow_skips_the_whole_step_where_clipping_is_on(make: Any) -> None:
    model = llama(dtype=torch.float16)
    optimizer = make(model.parameters(), lr=0.01, max_grad_norm=1.0, loss_scale="dynamic")
    before = weights(model)
    optimizer.backward(loss_of(model, 0) * 1e4)  # times 2^15: infinite on the way in float16
    optimizer.step()
    assert optimizer.skipped
    assert_bit_equal(weights(model), before)
    assert optimizer.loss_scale.value == scaling.START / 2
    assert all(p.grad is None for p in model.parameters())
    for step in range(8):
        optimizer.backward(loss_of(model, step))
        optimizer.step()
    assert not optimizer.skipped and optimizer.grad_norm > 0
    assert max_difference(weights(model), before) > 0


@both
def test_overflow_without_clipping_skips_the_tensors_that_it_hit(make: Any) -> None:
    good, bad = (nn.Parameter(torch.ones(3, 3, dtype=torch.float16)) for _ in range(2))
    optimizer = make([good, bad], lr=1.0, loss_scale="dynamic")
    optimizer.backward((good.float().sum() * 1e-2) + (bad * 1e3).sum().float() * 1e3)
    optimizer.step()
    assert torch.equal(bad.detach(), torch.ones(3, 3).half())
    assert bool((good != 1).all())
    assert optimizer.skipped and optimizer.loss_scale.value == scaling.START / 2


def test_grows_and_halves_within_limits() -> None:
    scale = scaling.LossScale("dynamic")
    for _ in range(scaling.GROWTH_INTERVAL):
        scale.update(1.0)
    assert scale.value == 2 * scaling.START
    scale.update(float("inf"))
    assert (scale.value, scale.num_good_steps) == (scaling.START, 0)
    for _ in range(100):
        scale.update(float("nan"))
    assert scale.value == scaling.SMALLEST
    for _ in range(40 * scaling.GROWTH_INTERVAL):
        scale.update(1.0)
    assert scale.value == scaling.LARGEST
    fixed = scaling.LossScale(8.0)
    fixed.update(float("inf"))
    assert fixed.value == 8.0


def test_first_overflow_needs_no_process_group_and_no_warm_up() -> None:
    # The released package starts at 2^32 and skips 17 steps; and raises without a process group.
    model = llama(dtype=torch.float16)
    optimizer = Lomo(model.parameters(), lr=0.01, max_grad_norm=1.0, loss_scale="dynamic")
    skipped = 0
    for step in range(10):
        optimizer.backward(loss_of(model, step))
        optimizer.step()
        skipped += optimizer.skipped
    assert skipped <= 3


@both
def test_resume_is_bitwise(make: Any) -> None:
    def run(model: nn.Module, optimizer: Any, steps: range) -> None:
        for step in steps:
            optimizer.backward(loss_of(model, step) * (1e4 if step == 1 else 1.0))
            optimizer.step()

    options: dict[str, Any] = {"lr": 0.01, "max_grad_norm": 1.0, "loss_scale": "dynamic"}
    straight, resumed = (llama(seed=seed, dtype=torch.float16) for seed in (0, 1))
    first = make(straight.parameters(), **options)
    run(straight, first, range(3))
    assert first.loss_scale.value < scaling.START
    resumed.load_state_dict(straight.state_dict())
    second = make(resumed.parameters(), **options)
    second.load_state_dict(first.state_dict())
    assert second.loss_scale.state_dict() == first.loss_scale.state_dict()
    run(straight, first, range(3, 6))
    run(resumed, second, range(3, 6))
    assert_bit_equal(weights(resumed), weights(straight))


@both
def test_a_plain_backward_is_refused(make: Any) -> None:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = make([parameter], lr=0.1, loss_scale="dynamic")
    with pytest.raises(RuntimeError, match=r"loss_scale needs optimizer\.backward\(loss\)"):
        parameter.sum().backward()
    with pytest.raises(RuntimeError, match=r"loss_scale needs optimizer\.backward\(loss\)"):
        optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(2))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("inf"), "static", True])
def test_bad_scales(bad: Any) -> None:
    with pytest.raises(ValueError, match="loss_scale must be"):
        Lomo([nn.Parameter(torch.ones(2))], lr=0.1, loss_scale=bad)


@pytest.mark.parametrize("max_grad_norm", [None, 1e-2])
def test_gradients_of_other_optimizers_are_unscaled(max_grad_norm: float | None) -> None:
    model, reference = llama(), llama()
    adapter = model.lm_head.weight
    base = [p for p in model.parameters() if p is not adapter]
    optimizer = Lomo(base, lr=0.1, loss_scale="dynamic", max_grad_norm=max_grad_norm)
    optimizer.backward(loss_of(model, 0), others=[adapter])
    loss_of(reference, 0).backward()
    assert adapter.grad is not None
    torch.testing.assert_close(adapter.grad, reference.lm_head.weight.grad)


@pytest.mark.parametrize("scale", ["dynamic", 64.0])
def test_a_state_saved_without_a_scale_leaves_the_scale_as_it_is(scale: Any) -> None:
    parameter = nn.Parameter(torch.ones(2))
    unscaled = Lomo([parameter], lr=0.1)
    unscaled.backward(parameter.sum())
    unscaled.step()
    saved = unscaled.state_dict()
    unscaled.close()
    optimizer = Lomo([parameter], lr=0.1, loss_scale=scale)
    optimizer.load_state_dict(saved)
    assert optimizer.loss_scale is not None
    assert optimizer.loss_scale.value == (scaling.START if scale == "dynamic" else scale)


def test_a_fixed_scale_keeps_its_value_beside_a_dynamic_one() -> None:
    parameter = nn.Parameter(torch.ones(2))
    dynamic = Lomo([parameter], lr=0.1, loss_scale="dynamic")
    saved = dynamic.state_dict()
    dynamic.close()
    optimizer = Lomo([parameter], lr=0.1, loss_scale=64.0)
    optimizer.load_state_dict(saved)
    assert optimizer.loss_scale is not None and optimizer.loss_scale.value == 64.0


def test_values_are_clipped_after_the_scale_is_taken_off() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    optimizer = Lomo([parameter], lr=1.0, loss_scale=64.0, clip_value=0.5)
    optimizer.backward((parameter * torch.tensor([0.25, 2.0, -2.0])).sum())
    assert parameter.tolist() == [-0.25, -0.5, 0.5]


def test_a_scaled_backward_in_a_no_grad_block_is_the_same() -> None:
    moved = []
    for block in (torch.enable_grad, torch.no_grad):
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = Lomo([parameter], lr=0.5, loss_scale=8.0)
        loss = (parameter * torch.arange(3.0)).sum()
        with block():
            optimizer.backward(loss)
        optimizer.step()
        moved.append(parameter.tolist())
    assert moved[0] == moved[1] == [1.0, 0.5, 0.0]
