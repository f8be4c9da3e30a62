"""A net of fifty weights, and batches for it, where a client's model need be no more."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """Loss on the batch of this step."""
    inputs = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
    loss: Tensor = model(inputs).square().mean()
    return loss
