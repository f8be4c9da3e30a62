"""AdaLomo computes the paper's equations, on any rank of tensor, and resumes bit for bit."""

import io
from typing import Any

import pytest
import torch
from torch import nn

from lomo.optim import AdaLomo

from .models import CHECKPOINTING, assert_bit_equal, llama, loss_of, max_difference, weights
from .reference import AdaLomoReference

# What float16 needs is tested in test_loss_scale.py; here it is one of the dtypes.
pytestmark = pytest.mark.filterwarnings("ignore:float16 weights without a loss scale")


@pytest.mark.parametrize(
    "options", [{}, {"clip_threshold": 0.3, "weight_decay": 0.5}, {"beta": 0.9}], ids=str
)
@pytest.mark.parametrize("scale", [1.0, 1e-5], ids=["weights", "weights_below_eps"])
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (1, 6), (9,)], ids=str)
def test_equals_the_slow_reference(
    shape: tuple[int, ...], scale: float, options: dict[str, float]
) -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape) * scale)
    reference = AdaLomoReference(
        parameter,
        lr=0.1,
        threshold=options.get("clip_threshold", 1.0),
        weight_decay=options.get("weight_decay", 0.0),
        beta=options.get("beta"),
    )
    optimizer = AdaLomo([parameter], lr=0.1, **options)
    for step in range(10):
        gradient = torch.randn(shape) * 10.0 ** (step % 3)
        parameter.backward(gradient.clone())
        optimizer.step()
        reference.step(gradient)
    torch.testing.assert_close(parameter.double(), reference.weight(), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_llama_equals_the_slow_reference(tied: bool, checkpointing: str) -> None:
    ours = llama(tied=tied, checkpointing=checkpointing)
    theirs = llama(tied=tied).double()
    optimizer = AdaLomo(ours.parameters(), lr=1e-2)
    references = [AdaLomoReference(p, lr=1e-2) for p in theirs.parameters()]
    for step in range(3):
        loss_of(ours, step).backward()
        optimizer.step()
        loss_of(theirs, step).backward()
        for parameter, reference in zip(theirs.parameters(), references, strict=True):
            reference.step(parameter.grad)
            parameter.data.copy_(reference.weight())
            parameter.grad = None
    expected = {name: weight.float() for name, weight in weights(theirs).items()}
    assert max_difference(weights(ours), expected) <= 1e-6


def test_higher_ranks_are_batches_of_matrices() -> None:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(2, 3, 4, 5))
    gradient = torch.randn(2, 3, 4, 5)
    moments = AdaLomo([parameter], lr=0.1)
    parameter.backward(gradient.clone())
    state = moments.state[parameter]
    assert (state["row"].shape, state["column"].shape) == ((2, 3, 4), (2, 3, 5))
    for i in range(2):
        for j in range(3):
            matrix = nn.Parameter(torch.randn(4, 5))
            alone = AdaLomo([matrix], lr=0.1)
            matrix.backward(gradient[i, j].clone())
            torch.testing.assert_close(alone.state[matrix]["row"], state["row"][i, j])
            torch.testing.assert_close(alone.state[matrix]["column"], state["column"][i, j])


def test_gradients_that_share_memory() -> None:
    # Autograd hands `position` a view of the gradient that `weight` is still waiting for.
    torch.manual_seed(0)
    position, weight = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(1, 3, 4))
    gradient = 2.0 * (2.0 * weight + position).detach()
    references = [AdaLomoReference(position, lr=0.1), AdaLomoReference(weight[0], lr=0.1)]
    optimizer = AdaLomo([position, weight], lr=0.1)
    (2.0 * weight + position.unsqueeze(0)).square().sum().backward()
    optimizer.step()
    for reference, ours, factor in zip(references, (position, weight[0]), (1.0, 2.0), strict=True):
        reference.step(factor * gradient[0])
        torch.testing.assert_close(ours.double(), reference.weight(), rtol=0.0, atol=1e-6)


def test_scalars_and_zero_gradients() -> None:
    scalar, matrix = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(3, 3))
    optimizer = AdaLomo([scalar, matrix], lr=0.1)
    (scalar * 3.0 + 0.0 * matrix.sum()).backward()
    optimizer.step()
    assert float(scalar.detach()) == pytest.approx(2.0 - 0.1 * 2.0)  # u = 1, RMS(theta) = 2
    assert torch.equal(matrix.detach(), torch.ones(3, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sixteen_bit_rounds_the_fp32_update_once(dtype: torch.dtype, weight_decay: float) -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(999, 301).to(dtype), torch.randn(999, 301).to(dtype)
    results = []
    for working_dtype in (dtype, torch.float32):
        parameter = nn.Parameter(weight.to(working_dtype, copy=True))
        optimizer = AdaLomo([parameter], lr=0.05, weight_decay=weight_decay)
        parameter.backward(gradient.to(working_dtype))
        state = optimizer.state[parameter]
        assert state["row"].dtype == state["column"].dtype == torch.float32
        results.append(parameter.detach().to(dtype))
    # The two sum the norms in another order, so a tie may fall to the other side, rarely.
    assert float((results[0] != results[1]).float().mean()) < 1e-4


@pytest.mark.parametrize("checkpointing", CHECKPOINTING)
def test_clipping_by_two_passes(checkpointing: str) -> None:
    ours, theirs = llama(checkpointing=checkpointing), llama()
    optimizer = AdaLomo(ours.parameters(), lr=1e-2, max_grad_norm=0.5)
    optimizer.backward(loss_of(ours, 0))
    optimizer.step()
    loss_of(theirs, 0).backward()
    norm = nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    assert optimizer.grad_norm == pytest.approx(float(norm), rel=1e-6)
    for parameter in theirs.parameters():
        reference = AdaLomoReference(parameter, lr=1e-2)
        reference.step(parameter.grad)
        parameter.data.copy_(reference.weight())
    assert max_difference(weights(ours), weights(theirs)) <= 1e-6


def test_skipped_step_leaves_the_state() -> None:
    model = llama()
    optimizer = AdaLomo(model.parameters(), lr=1e-2, max_grad_norm=0.5)
    before = weights(model)
    optimizer.backward(loss_of(model, 0) * float("nan"))
    optimizer.step()
    assert_bit_equal(weights(model), before)
    assert not optimizer.state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_resume_is_bitwise(dtype: torch.dtype) -> None:
    def run(model: nn.Module, optimizer: AdaLomo, steps: range) -> None:
        for step in steps:
            loss_of(model, step).backward()
            optimizer.step()

    options: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.01}
    straight, resumed = llama(dtype=dtype), llama(seed=1, dtype=dtype)
    first = AdaLomo(straight.parameters(), **options)
    run(straight, first, range(3))
    file = io.BytesIO()
    torch.save({"model": straight.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed.load_state_dict(saved["model"])
    second = AdaLomo(resumed.parameters(), **options)
    second.load_state_dict(saved["optimizer"])
    for ours, theirs in zip(first.state.values(), second.state.values(), strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            same = torch.equal(value, theirs[key]) if key != "step" else value == theirs[key]
            assert same, key
            assert key == "step" or theirs[key].dtype == torch.float32
    run(straight, first, range(3, 6))
    run(resumed, second, range(3, 6))
    assert_bit_equal(weights(resumed), weights(straight))


def test_state_is_small() -> None:
    parameter = nn.Parameter(torch.randn(64, 48))
    optimizer = AdaLomo([parameter], lr=0.1)
    parameter.sum().backward()
    tensors = [v for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor)]
    assert sum(t.numel() for t in tensors) == 64 + 48
