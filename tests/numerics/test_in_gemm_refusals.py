"""What the in-GEMM update can't honour is refused, in words, before or at the first gradient."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

from lomo.optim import AdaLomo, Lomo
from lomo.optim.in_gemm import update_in_gemm
from tests.numerics.in_gemm import mlp, mlp_loss
from tests.numerics.models import llama


def refuse(optimizer: Any, model: nn.Module, error: type[Exception], match: str) -> None:
    types = [type(module) for module in model.modules()]
    with pytest.raises(error, match=match):
        update_in_gemm(optimizer, model)
    assert [type(module) for module in model.modules()] == types


def test_refuses_other_optimizers() -> None:
    model = mlp()
    refuse(torch.optim.SGD(model.parameters(), lr=0.1), model, TypeError, "needs a Lomo, got SGD")
    refuse(AdaLomo(model.parameters(), lr=0.1), model, TypeError, "needs a Lomo, got AdaLomo")


def test_refuses_options_that_need_the_gradient() -> None:
    model = mlp()
    refuse(Lomo(model.parameters(), lr=0.1, clip_value=1.0), model, ValueError, "clip_value")
    optimizer = Lomo(mlp().parameters(), lr=0.1, rounding="stochastic")
    refuse(optimizer, model, ValueError, "rounding='stochastic'")


def test_refuses_shared_weights() -> None:
    model = llama(tied=True)
    optimizer = Lomo(model.parameters(), lr=0.1)
    refuse(optimizer, model, ValueError, "embed_tokens.weight and lm_head.weight are one")
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, layer)
    refuse(Lomo(layer.parameters(), lr=0.1), model, ValueError, "0.weight and 1.weight are one")


@pytest.mark.parametrize("option", ["max_norm", "scale_grad_by_freq", "sparse"])
def test_refuses_embedding_options(option: str) -> None:
    model = nn.Sequential(nn.Embedding(5, 3, **{option: True}))
    refuse(Lomo(model.parameters(), lr=0.1), model, ValueError, option)


def test_refuses_partitioned_weights() -> None:
    model = mlp()
    model[1].weight.ds_id = 7
    refuse(Lomo(model.parameters(), lr=0.1), model, ValueError, "1.weight is sharded")


def test_refuses_a_model_without_such_a_weight() -> None:
    model, other = mlp(), mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    refuse(optimizer, other, ValueError, "no nn.Linear or nn.Embedding")
    update_in_gemm(optimizer, model)
    refuse(optimizer, model, ValueError, "call update_in_gemm once")
    optimizer.close()
    refuse(optimizer, model, RuntimeError, "closed")


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """The first of two ranks that do not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield
    dist.destroy_process_group()


def test_refuses_fsdp_and_ddp(two_ranks: None) -> None:
    model = mlp()
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    refuse(Lomo(model.parameters(), lr=0.1), model, ValueError, "sharded or wrapped")
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1)
    wrapped = nn.parallel.DistributedDataParallel(model)
    refuse(optimizer, wrapped, ValueError, "DistributedDataParallel")


def test_replicas_in_several_processes_are_refused(two_ranks: None) -> None:
    model = nn.Linear(4, 2, bias=False)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    before = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="several processes train"):
        optimizer.backward(model(torch.ones(3, 4)).sum())
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_a_module_that_is_used_twice(max_grad_norm: float | None) -> None:
    model = nn.Linear(4, 4)
    optimizer = Lomo(model.named_parameters(), lr=0.1, max_grad_norm=max_grad_norm)
    update_in_gemm(optimizer, model)
    loss = model(model(torch.ones(2, 4))).sum()
    with pytest.raises(RuntimeError, match="weight got a second gradient.*used twice"):
        optimizer.backward(loss)


def test_a_weight_that_is_used_outside_of_its_module() -> None:
    model = nn.Linear(4, 4, bias=False)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    x = torch.ones(2, 4)
    with pytest.raises(RuntimeError, match="second gradient"):
        (model(x).sum() + F.linear(x, model.weight).sum()).backward()


def test_a_weight_that_changed_since_the_forward_pass() -> None:
    model = nn.Linear(4, 4)
    optimizer = Lomo(model.named_parameters(), lr=0.1)
    update_in_gemm(optimizer, model)
    loss = model(torch.ones(2, 4)).sum()
    with torch.no_grad():
        model.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="changed between forward and backward"):
        loss.backward()


def test_autocast_is_refused_and_clipping_needs_backward_of_the_optimizer() -> None:
    model = mlp()
    optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=1.0)
    update_in_gemm(optimizer, model)
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
        model(torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(RuntimeError, match=r"needs optimizer.backward\(loss\)"):
        mlp_loss(model, 0).backward()
