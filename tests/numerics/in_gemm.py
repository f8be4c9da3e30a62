"""What the tests of the in-GEMM update train, by it and by torch's own SGD."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lomo.optim import Lomo
from lomo.optim.in_gemm import update_in_gemm

ONE_ROUNDING = 1.2e-6
"""Steps that differ by the order of sums alone stay this close in fp32."""


def mlp(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """An embedding whose row 0 is padding, and two layers with biases."""
    torch.manual_seed(0)
    layers = [nn.Embedding(11, 12, padding_idx=0), nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 5)]
    return nn.Sequential(*layers).to(dtype)


def mlp_loss(model: nn.Module, step: int) -> Tensor:
    """Ids repeat, and some are padding."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(0, 5, (3, 7), generator=generator)
    return 3.0 * model(ids).square().mean()


def train_sgd(
    model: nn.Module,
    loss_at: Callable[[nn.Module, int], Tensor],
    *,
    lr: float = 0.1,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = None,
    num_steps: int = 5,
) -> list[float]:
    """The reference; returns the norms where it clips."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, weight_decay=weight_decay, foreach=False)
    norms = []
    for step in range(num_steps):
        optimizer.zero_grad()
        loss_at(model, step).backward()
        if max_grad_norm is not None:
            norms.append(float(nn.utils.clip_grad_norm_(trained, max_grad_norm, foreach=False)))
        optimizer.step()
    return norms


def train_in_gemm(
    model: nn.Module,
    loss_at: Callable[[nn.Module, int], Tensor],
    *,
    num_steps: int = 5,
    lr: float = 0.1,
    **options: Any,
) -> list[float | None]:
    optimizer = Lomo(model.named_parameters(), lr=lr, **options)
    update_in_gemm(optimizer, model)
    norms = []
    for step in range(num_steps):
        optimizer.backward(loss_at(model, step))
        optimizer.step()
        assert all(p.grad is None for p in model.parameters())
        norms.append(optimizer.grad_norm)
    return norms
