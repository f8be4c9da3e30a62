"""MasterCopy is an fp32 optimizer on explicit copies, rounded back after each step."""

import io
from typing import Any

import pytest
import torch
from torch import nn

from lomo.optim import MasterCopy

from .models import assert_bit_equal, llama, loss_of, weights

OPTIMIZERS: list[tuple[type[torch.optim.Optimizer], dict[str, Any], int]] = [
    # class, options, bytes of state per parameter element beside the 4 of the master
    (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.01}, 0),
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, 4),
    (torch.optim.AdamW, {"lr": 1e-2, "betas": (0.9, 0.95)}, 8),
]
each_optimizer = pytest.mark.parametrize(("inner", "options", "state_bytes"), OPTIMIZERS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, steps: range) -> None:
    for step in steps:
        loss_of(model, step).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()


def schedule_of(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)


@each_optimizer
@each_dtype
def test_equals_fp32_optimizer_on_copies(
    inner: type[torch.optim.Optimizer],
    options: dict[str, Any],
    state_bytes: int,
    dtype: torch.dtype,
) -> None:
    ours, theirs = llama(dtype=dtype), llama(dtype=dtype)
    optimizer = MasterCopy(ours.parameters(), inner, **options)
    run(ours, optimizer, schedule_of(optimizer), range(5))

    copies = [p.detach().float() for p in theirs.parameters()]
    reference = inner(copies, foreach=False, **options)
    schedule = schedule_of(reference)
    for step in range(5):
        loss_of(theirs, step).backward()
        for copy, parameter in zip(copies, theirs.parameters(), strict=True):
            copy.grad = parameter.grad.float()
        reference.step()
        schedule.step()
        for copy, parameter in zip(copies, theirs.parameters(), strict=True):
            parameter.data.copy_(copy)
            parameter.grad = None

    assert_bit_equal(weights(ours), weights(theirs))
    for copy, parameter in zip(copies, ours.parameters(), strict=True):
        state = optimizer.state[parameter]
        assert torch.equal(state["master"], copy)
        tensors = [v for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]
        assert all(t.dtype == torch.float32 for t in tensors)
        assert sum(t.nbytes for t in tensors) == (4 + state_bytes) * parameter.numel()
        assert all(m.grad is None for m in (state["master"], parameter))


@each_optimizer
@each_dtype
def test_resume_is_bitwise(
    inner: type[torch.optim.Optimizer],
    options: dict[str, Any],
    state_bytes: int,
    dtype: torch.dtype,
) -> None:
    straight, resumed = llama(dtype=dtype), llama(seed=1, dtype=dtype)
    first = MasterCopy(straight.parameters(), inner, **options)
    schedule = schedule_of(first)
    run(straight, first, schedule, range(3))
    file = io.BytesIO()
    state = {"model": straight, "optimizer": first, "schedule": schedule}
    torch.save({name: part.state_dict() for name, part in state.items()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    second = MasterCopy(resumed.parameters(), inner, **{**options, "lr": 0.5})
    second_schedule = schedule_of(second)
    second.load_state_dict(saved["optimizer"])  # before the model: both orders must do
    resumed.load_state_dict(saved["model"])
    second_schedule.load_state_dict(saved["schedule"])
    for ours, theirs in zip(first.state.values(), second.state.values(), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(
            torch.equal(value, theirs[key]) for key, value in ours.items() if value is not None
        )
    run(straight, first, schedule, range(3, 6))
    run(resumed, second, second_schedule, range(3, 6))
    assert_bit_equal(weights(resumed), weights(straight))


def test_small_steps_are_not_lost() -> None:
    parameter = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterCopy([parameter], torch.optim.SGD, lr=1e-3)
    for _ in range(100):
        parameter.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    # Each step is below half a unit in the last place of 1.0, so bf16 alone would stay at 1.
    torch.testing.assert_close(optimizer.state[parameter]["master"], torch.full((4,), 0.9))
    assert torch.equal(parameter.detach(), torch.full((4,), 0.9, dtype=torch.bfloat16))


def test_tied_frozen_and_unused_parameters() -> None:
    model = llama(tied=True, dtype=torch.bfloat16)
    frozen = model.model.norm.weight.requires_grad_(False)
    unused = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = MasterCopy([*model.parameters(), unused], torch.optim.AdamW, lr=1e-2)
    before = weights(model)
    run(model, optimizer, schedule_of(optimizer), range(2))
    after = weights(model)
    assert torch.equal(frozen, before["model.norm.weight"])
    assert "master" not in optimizer.state.get(frozen, {})
    assert torch.equal(unused.detach(), torch.ones(3, dtype=torch.bfloat16))
    assert not torch.equal(after["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


def test_groups_and_closure() -> None:
    params = [nn.Parameter(torch.ones(1, dtype=torch.float16)) for _ in range(2)]
    optimizer = MasterCopy([{"params": [params[0]], "lr": 0.5}], torch.optim.SGD, lr=0.25)
    optimizer.add_param_group({"params": [params[1]]})

    def closure() -> float:
        optimizer.zero_grad()
        loss = sum(p.sum() for p in params)
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 2.0
    assert [float(p.detach()) for p in params] == [0.5, 0.75]


def test_fp32_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="use the torch optimizer directly"):
        MasterCopy([nn.Parameter(torch.ones(2))], torch.optim.SGD, lr=0.1)


def test_bad_options_are_refused() -> None:
    parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="learning rate"):
        MasterCopy([parameter], torch.optim.SGD, lr=-0.1)
    with pytest.raises(TypeError, match="momentun"):
        MasterCopy([parameter], torch.optim.SGD, lr=0.1, momentun=0.9)


def test_weights_changed_behind_the_master_are_refused() -> None:
    model = llama(dtype=torch.bfloat16)
    optimizer = MasterCopy(model.parameters(), torch.optim.SGD, lr=0.1)
    same, other = llama(dtype=torch.bfloat16), llama(seed=1, dtype=torch.bfloat16)
    model.load_state_dict(same.state_dict())  # the same values: no harm
    run(model, optimizer, schedule_of(optimizer), range(1))
    model.load_state_dict(other.state_dict())
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match="differs from its master copy"):
        optimizer.step()


def test_foreign_state_is_refused() -> None:
    model = llama(dtype=torch.bfloat16)
    optimizer = MasterCopy(model.parameters(), torch.optim.SGD, lr=0.1)
    foreign = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no master copy"):
        optimizer.load_state_dict(foreign.state_dict())


def test_state_that_was_cleared_begins_anew() -> None:
    parameter = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = MasterCopy([parameter], torch.optim.AdamW, lr=0.1)
    for cleared in (False, False, True):
        if cleared:
            optimizer.state.clear()
        parameter.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert optimizer.state[parameter]["step"] == 1
