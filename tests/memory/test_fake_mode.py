"""The mode that remembers operators gives what torch's own fake mode gives, the second time too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lomo.memory.predicted.fake_mode import RememberingMode
from tests.memory.test_meter import meter_training_step

OPERATORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "new": lambda x: x @ x.t(),
    "promoted": lambda x: x.long() + 1.5,
    "a number's type": lambda x: (x.long() + 1, x.long() + 1.0, x.long() + True),
    "default dtype": lambda x: torch.zeros(3) + x[0, 0],
    "views": lambda x: (x.t(), x[1:, ::2], x.view(-1), x.expand(2, *x.shape), x.diagonal()),
    "a view as another dtype": lambda x: x.view(torch.int16),
    "in place": lambda x: x.add_(1).t_().mul_(2),
    "several": lambda x: (*x.split(2), *x.unbind(0), *x.max(0), *torch.var_mean(x, 1)),
    "into a given one": lambda x: torch.mul(x, 2, out=torch.empty_like(x)),
    "resized": lambda x: x.clone().resize_(2, 2),
    "a list": lambda x: torch._foreach_add([x, x.t()], 1.0),
    "channels last": lambda x: x[None, None].clone(memory_format=torch.channels_last),
    "complex": lambda x: torch.view_as_complex(x.view(4, 3, 2)).conj().imag * 2,
    "values asked for": lambda x: torch.tensor([1.0, 2.0]) * x[0, :2],
    "backward": lambda x: torch.autograd.grad(
        torch.nn.functional.gelu(x.requires_grad_() @ x.t()).sum(), x
    ),
}  # fmt: skip


def facts(value: Any, x: torch.Tensor) -> Any:
    if not isinstance(value, torch.Tensor):
        return [facts(part, x) for part in value] if isinstance(value, (list, tuple)) else value
    storage = value.untyped_storage()
    return (
        *(value.dtype, value.device, value.shape, value.stride(), value.storage_offset()),
        *(value.requires_grad, value._is_view(), value.is_conj(), storage.nbytes()),
        storage._cdata == x.untyped_storage()._cdata,
        value._version,
    )


def outcome(mode: FakeTensorMode, operator: Callable[[torch.Tensor], Any]) -> Any:
    with mode:
        x = torch.ones(4, 6)
        result = operator(x)
        return facts(result, x), facts(x, x)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_remembered_is_what_torch_works_out(name: str) -> None:
    operator = OPERATORS[name]
    expected = outcome(FakeTensorMode(), operator)
    RememberingMode._known.clear()
    for _ in range(2):
        mode = RememberingMode()
        assert outcome(mode, operator) == expected
        assert outcome(mode, operator) == expected


def test_an_operator_is_worked_out_once_for_each_layout() -> None:
    worked_out: list[Any] = []

    class Counting(RememberingMode):
        def _worked_out(self, func: Any, *rest: Any) -> Any:
            worked_out.append(func)
            return super()._worked_out(func, *rest)

    RememberingMode._known.clear()
    for _ in range(2):  # in another mode, too
        with Counting():
            x = torch.ones(4, 6)
            for _ in range(3):
                x.exp()
            x.t().exp()
            x.double().exp()
    assert worked_out.count(torch.ops.aten.exp.default) == 3


def test_what_the_host_asks_is_answered() -> None:
    with RememberingMode():
        x = torch.zeros(3)
        assert torch.equal(x, x + 1)
        assert (x.sum() < 0).item() is True
        assert (x.sum().item(), x.long().sum().item()) == (1.0, 1)


def test_a_meter_is_told_of_the_same_changes() -> None:
    """Of the operators inside an operator that is worked out, it is told of none."""
    ledgers = []
    for mode in (FakeTensorMode(), RememberingMode()):
        with mode:
            model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
            ledgers.append(meter_training_step(model, torch.ones(16, 8)))
    assert ledgers[0] == ledgers[1]
    assert ledgers[0].peak_bytes > 0
