"""State made from gradients that come from nowhere is the state that a real step makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lomo.memory.predicted.first_step import drop_unused_state, make_state
from lomo.optim import AdaLomo, Lomo
from tests.numerics.models import llama, loss_of

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"max_grad_norm": 0.5},
    "scaled": {"loss_scale": 1024.0},
}


def shapes(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Shape and dtype of each state tensor, and the other values, by the parameter's name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: {
            key: (value.shape, value.dtype) if isinstance(value, torch.Tensor) else value
            for key, value in state.items()
        }
        for parameter, state in optimizer.state.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("options", OPTIONS)
def test_it_is_what_a_real_step_makes(options: str, dtype: torch.dtype) -> None:
    made = []
    for really in (True, False):
        model = llama(dtype=dtype)
        groups = [{"params": [p]} for p in model.parameters() if p.dim() == 1]
        groups += [{"params": [p for p in model.parameters() if p.dim() != 1], "beta": 0.9}]
        optimizer = AdaLomo(groups, lr=0.01, **OPTIONS[options])
        if really:
            optimizer.backward(loss_of(model, 0))
            optimizer.step()
        else:
            make_state(optimizer)
        made.append(shapes(optimizer, model))
    assert made[0] == made[1]
    assert made[0]


def test_no_two_parameters_share_a_state_tensor() -> None:
    optimizer = AdaLomo(llama().parameters(), lr=0.01)
    make_state(optimizer)
    tensors = [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    ]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors) > 0


@pytest.mark.parametrize("make", [AdaLomo, Lomo, torch.optim.AdamW])
def test_the_next_step_is_an_ordinary_one(make: Any) -> None:
    model = llama()
    optimizer = make(model.parameters(), lr=0.01)
    make_state(optimizer)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss_of(model, 0).backward()
    optimizer.step()


def test_what_was_not_updated_has_no_state() -> None:
    model = llama()
    optimizer = AdaLomo(model.parameters(), lr=0.01)
    make_state(optimizer)
    updated = set(list(model.parameters())[:3])
    assert drop_unused_state(optimizer, updated)
    assert set(optimizer.state) == updated
    assert not drop_unused_state(optimizer, updated)


def test_a_frozen_parameter_has_none() -> None:
    model = llama()
    frozen = next(model.parameters()).requires_grad_(False)
    optimizer = AdaLomo(model.parameters(), lr=0.01)
    make_state(optimizer)
    assert frozen not in optimizer.state
    assert len(optimizer.state) == len(list(model.parameters())) - 1
