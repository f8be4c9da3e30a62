"""Parameters that share memory are refused; views of one buffer that do not overlap train."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lomo.optim import AdaLomo, Lomo
from lomo.optim.in_gemm import update_in_gemm

both = pytest.mark.parametrize("make", [Lomo, AdaLomo])


class Tied(nn.Module):
    """An embedding and a head in one storage, as two parameters."""

    def __init__(self, kind: str = "data") -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        weight = self.embedding.weight
        if kind == "data":
            self.head.weight.data = weight.data
        elif kind == "transposed":
            self.head = nn.Linear(6, 4, bias=False)
            self.head.weight = nn.Parameter(weight.detach().t())
        elif kind == "rows":
            self.head.weight = nn.Parameter(weight.detach()[2:])
        elif kind == "columns":
            self.head.weight = nn.Parameter(weight.detach()[:, 1:3])
        elif kind == "bits":
            self.head.weight = nn.Parameter(weight.detach().view(torch.bfloat16))
        elif kind == "numpy":
            self.head.weight = nn.Parameter(torch.from_numpy(weight.detach().numpy()))


KINDS = ["data", "transposed", "rows", "columns", "bits", "numpy"]


@both
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_shared_memory_is_refused(make: Callable[..., Any], kind: str, frozen: bool) -> None:
    model = Tied(kind)
    model.head.requires_grad_(not frozen)
    words = r"share memory: embedding.weight and head.weight.*head.weight = embedding.weight"
    with pytest.raises(ValueError, match=words):
        make(model.named_parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"share memory: number 0 \(6, 4\) and number 1"):
        make(model.parameters(), lr=0.1)
    optimizer = make(model.embedding.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.add_param_group({"params": list(model.head.parameters())})
    with pytest.raises(ValueError, match=r"share memory: number 0.* and one of another optimizer"):
        make(model.head.parameters(), lr=0.1)
    optimizer.close()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    model.requires_grad_(False)
    make(list(model.parameters()), lr=0.1)  # nothing moves


def test_a_head_outside_of_the_optimizer_is_seen_by_update_in_gemm() -> None:
    model = Tied().requires_grad_(True)
    model.head.requires_grad_(False)
    optimizer = Lomo(model.embedding.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="share memory: embedding.weight and head.weight"):
        update_in_gemm(optimizer, model)


def test_an_expanded_parameter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"parameter number 0 \(3, 4\) shows one place"):
        Lomo([nn.Parameter(torch.ones(1, 4).expand(3, 4))], lr=0.1)


@both
def test_a_parameter_that_is_truly_tied_is_one(make: Callable[..., Any]) -> None:
    model = Tied("none")
    model.head.weight = model.embedding.weight
    make(model.named_parameters(), lr=0.1)


@both
def test_disjoint_views_of_one_buffer_train(make: Callable[..., Any]) -> None:
    def parameters(flat: bool) -> list[nn.Parameter]:
        torch.manual_seed(0)
        buffer = torch.randn(64)
        views = [buffer[:12].view(3, 4), *buffer[12:28].view(4, 4).split(2, dim=1)]
        views += [buffer[28::2], buffer[29::2]]
        made = [nn.Parameter(view.clone()) for view in views]
        if flat:
            for parameter, view in zip(made, views, strict=True):
                parameter.data = view
        return made

    found = []
    for flat in (True, False):
        trained = parameters(flat)
        optimizer = make(trained, lr=0.1)
        for _ in range(2):
            sum((p * p).sum() for p in trained).backward()
            optimizer.step()
        found.append(trained)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-7)


@both
def test_tensors_without_memory_are_let_be(make: Callable[..., Any]) -> None:
    empty = [nn.Parameter(torch.ones(0, 3)), nn.Parameter(torch.ones(0, 3))]
    make(empty, lr=0.1)
    make(nn.Linear(3, 3, device="meta").parameters(), lr=0.1)
    with FakeTensorMode():
        make(nn.Linear(3, 3).parameters(), lr=0.1)


@pytest.mark.parametrize("overlapping", [0, 1, 2])
def test_one_pair_among_many_that_shares_memory_is_found(overlapping: int) -> None:
    """Wherever in memory it lies: before, between and behind others."""
    buffer = torch.zeros(40)
    parameters = []
    for number, start in enumerate((0, 12, 24)):
        second = start + (2 if number == overlapping else 4)
        parameters += [nn.Parameter(buffer[at : at + 4]) for at in (start, second)]
    pair = f"number {2 * overlapping} .* and number {2 * overlapping + 1} "
    with pytest.raises(ValueError, match=f"share memory: {pair}"):
        Lomo(parameters, lr=0.1)
    apart = [p for number, p in enumerate(parameters) if number != 2 * overlapping + 1]
    Lomo(apart, lr=0.1)
