"""Sparse gradients of embeddings: plain LOMO takes them as SGD does, the rest as dense ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lomo.optim import AdaLomo, Lomo
from tests.numerics.models import max_difference, weights

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": 0.1},
    "clipped": {"max_grad_norm": 0.3},
    "by_parameter": {"max_grad_norm": 0.1, "norm_scope": "parameter"},
    "previous_step": {"max_grad_norm": 0.3, "norm_scope": "previous_step"},
    "scaled": {"loss_scale": 256.0},
    "all": {"weight_decay": 0.1, "max_grad_norm": 0.3, "loss_scale": "dynamic"},
}
LOMO_ONLY: dict[str, dict[str, Any]] = {
    "by_value": {"clip_value": 0.01},
    "decay_by_value": {"clip_value": 0.01, "weight_decay": 0.1},
}


class Bags(nn.Module):
    """Ids that recur, in an Embedding and in an EmbeddingBag, before a layer."""

    def __init__(self, sparse: bool, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 6, sparse=sparse, dtype=dtype)
        self.bag = nn.EmbeddingBag(7, 6, mode="sum", sparse=sparse, dtype=dtype)
        self.head = nn.Linear(6, 3, dtype=dtype)

    def forward(self, step: int) -> Tensor:
        ids = torch.tensor([[1, 2, 1], [5, step, 2]])
        hidden = self.embedding(ids).sum(1) + self.bag(ids % 7)
        return self.head(hidden).float().square().mean()


def train(make: Any, sparse: bool, dtype: torch.dtype, options: dict[str, Any]) -> Any:
    model = Bags(sparse, dtype)
    optimizer = make(model.parameters(), lr=0.05, **options)
    norms = []
    for step in range(3):
        if isinstance(optimizer, torch.optim.SGD):
            model(step).backward()
        else:
            optimizer.backward(model(step))
            norms += [optimizer.grad_norm] if "max_grad_norm" in options else []
        optimizer.step()
        optimizer.zero_grad()
    return weights(model), norms


@pytest.mark.parametrize("options", {**OPTIONS, **LOMO_ONLY})
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_lomo_takes_sparse_gradients(options: str, dtype: torch.dtype) -> None:
    given = {**OPTIONS, **LOMO_ONLY}[options]
    sparse, norms = train(Lomo, True, dtype, given)
    dense, expected = train(Lomo, False, dtype, given)
    assert max_difference(sparse, dense) <= (0.01 if dtype == torch.bfloat16 else 1e-6)
    assert norms == pytest.approx(expected, rel=0.01 if dtype == torch.bfloat16 else 1e-5)
    if dtype == torch.float32 and not given:
        assert max_difference(sparse, train(torch.optim.SGD, True, dtype, {})[0]) == 0.0


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adalomo_takes_sparse_gradients(options: str, dtype: torch.dtype) -> None:
    sparse, norms = train(AdaLomo, True, dtype, OPTIONS[options])
    dense, expected = train(AdaLomo, False, dtype, OPTIONS[options])
    assert max_difference(sparse, dense) <= (0.02 if dtype == torch.bfloat16 else 1e-5)
    assert norms == pytest.approx(expected, rel=0.01 if dtype == torch.bfloat16 else 1e-5)


def test_stochastic_rounding_of_a_sparse_gradient() -> None:
    given = {"rounding": "stochastic"}
    sparse, _ = train(Lomo, True, torch.bfloat16, given)
    dense, _ = train(Lomo, False, torch.bfloat16, given)
    assert max_difference(sparse, dense) <= 0.03
