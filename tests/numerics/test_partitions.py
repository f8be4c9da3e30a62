"""The parts of a parameter that ZeRO-3 cuts over more ranks than the tests can start."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lomo.optim import sharding


@pytest.mark.parametrize("num_ranks", [2, 3, 4, 8])
@pytest.mark.parametrize("num_elements", [1, 5, 6, 9])
def test_the_parts_are_the_whole_without_padding(
    num_elements: int, num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the last ranks hold padding alone."""
    gradient = torch.randn(num_elements)
    size = -(-num_elements // num_ranks)
    parameter: Any = nn.Parameter(torch.randn(num_elements))
    parameter.ds_id, parameter.ds_shape = 0, parameter.shape
    parameter.ds_process_group, parameter.ds_secondary_tensor = None, None
    parts, gradients = [], []
    for rank in range(num_ranks):

        def reduce_scatter(own: Tensor, flat: Tensor, group: Any, rank: int = rank) -> None:
            own.copy_(flat.view(num_ranks, size)[rank] * num_ranks)  # all have the same gradient

        monkeypatch.setattr(sharding.dist, "get_rank", lambda group, rank=rank: rank)
        monkeypatch.setattr(sharding.dist, "get_world_size", lambda group: num_ranks)
        monkeypatch.setattr(sharding, "_reduce_scatter", reduce_scatter)
        padded = torch.full((size,), float("nan"))
        part = parameter.detach()[rank * size : (rank + 1) * size]
        padded[: len(part)] = part
        parameter.ds_tensor = padded
        shard = sharding.shard_of(parameter, gradient, elementwise=True)
        assert shard.parameter.shape == shard.gradient.shape
        parts.append(shard.parameter)
        gradients.append(shard.gradient)
    assert torch.equal(torch.cat(parts), parameter.detach())
    torch.testing.assert_close(torch.cat(gradients), gradient)


def test_a_norm_over_ranks_is_that_of_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank has its square; a part that no rank shares is the whole."""

    def all_reduce(own: Tensor, group: Any) -> None:
        own.add_(16.0)  # the other rank's norm is 4

    group: Any = "two ranks"
    monkeypatch.setattr(sharding.dist, "all_reduce", all_reduce)
    monkeypatch.setattr(sharding.dist, "get_rank", lambda group: 1)
    part = torch.tensor([3.0, 0.0])
    alone = sharding.Shard(part, part, part, torch.Size([2]))
    shared = sharding.Shard(part, part, part, torch.Size([4]), group)
    assert (alone.norm().item(), alone.index) == (3.0, 0)
    assert (shared.norm().item(), shared.index) == (5.0, 1)
    assert part.tolist() == [3.0, 0.0]
