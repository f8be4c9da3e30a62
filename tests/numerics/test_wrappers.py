"""One process in a process group: what wraps a model is refused for what it is, or trains."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from lomo.optim import AdaLomo, Lomo
from lomo.optim.in_gemm import update_in_gemm
from tests.numerics.models import max_difference, weights

pytestmark = pytest.mark.slow
both = pytest.mark.parametrize("make", [Lomo, AdaLomo])


@pytest.fixture(autouse=True, scope="module")
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


def train(module: nn.Module, optimizer: Any, steps: int = 2) -> None:
    backward = getattr(optimizer, "backward", torch.Tensor.backward)
    for _ in range(steps):
        backward(module(torch.ones(3, 4)).square().sum())
        optimizer.step()
        optimizer.zero_grad()


def fsdp1(module: nn.Module, *, use_orig_params: bool) -> nn.Module:
    cpu = torch.device("cpu")
    return FullyShardedDataParallel(module, use_orig_params=use_orig_params, device_id=cpu)


def halve(parameter: torch.Tensor) -> None:
    assert parameter.grad is not None
    parameter.grad.mul_(0.5)


WRAPPERS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "ddp": (DistributedDataParallel, "DistributedDataParallel holds.*train model.module"),
    "fsdp1": (lambda m: fsdp1(m, use_orig_params=False), r"FSDP1\) has flattened"),
    "fsdp1_orig": (lambda m: fsdp1(m, use_orig_params=True), r"FSDP1\) has flattened"),
}

# FSDP1 speaks of NO_SHARD, which a single rank falls back to, and of itself.
quiet = pytest.mark.filterwarnings("ignore:FSDP", "ignore:The `?NO_SHARD", "ignore:.*NO_SHARD")


@quiet
@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_is_refused_when_the_optimizer_is_made(kind: str) -> None:
    wrap, words = WRAPPERS[kind]
    wrapped = wrap(model())
    with pytest.raises(ValueError, match=words):
        AdaLomo(wrapped.parameters(), lr=0.1)


@quiet
@pytest.mark.parametrize(
    ("kind", "max_grad_norm", "in_gemm"),
    [("ddp", None, False), ("ddp", 1.0, True), ("fsdp1_orig", None, False)],
)
def test_a_wrapper_that_comes_later_is_refused_before_anything_moves(
    kind: str, max_grad_norm: float | None, in_gemm: bool
) -> None:
    wrap, words = WRAPPERS[kind]
    module = model()
    before = weights(module)
    optimizer = Lomo(module.parameters(), lr=0.1, max_grad_norm=max_grad_norm)
    if in_gemm:
        update_in_gemm(optimizer, module)
    wrapped = wrap(module)
    with pytest.raises(RuntimeError, match=words):
        train(wrapped, optimizer)
    for name, weight in module.named_parameters():
        plain = name.replace("_fsdp_wrapped_module.", "")
        assert torch.equal(weight, before[plain])


def test_a_wrapper_that_comes_between_steps_is_named() -> None:
    module = model()
    optimizer = Lomo(module.parameters(), lr=0.1)
    train(module, optimizer)
    with pytest.raises(RuntimeError, match="has a gradient again.*DistributedDataParallel"):
        train(DistributedDataParallel(module), optimizer)


def test_a_wrapper_that_was_taken_off_does_not_matter() -> None:
    wrapped = DistributedDataParallel(model())
    module = wrapped.module
    wrapped.kept = [wrapped]  # only the garbage collector ends it
    del wrapped
    train(module, Lomo(module.parameters(), lr=0.1))


@both
@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
def test_fsdp2_with_offload_on_a_cpu_is_right(
    make: Callable[..., Any], max_grad_norm: float | None
) -> None:
    """The mesh is of CPUs, so that nothing is copied anywhere."""
    found = []
    for spread in (False, True):
        module = model()
        if spread:
            mesh = init_device_mesh("cpu", (1,))
            fully_shard(module, mesh=mesh, offload_policy=CPUOffloadPolicy(pin_memory=False))
        optimizer = make(module.parameters(), lr=0.1, max_grad_norm=max_grad_norm)
        train(module, optimizer, steps=3)
        found.append(
            {n: getattr(w, "full_tensor", lambda w=w: w)() for n, w in weights(module).items()}
        )
    assert max_difference(*found) <= 1e-6


@both
def test_fsdp2_with_offload_from_an_accelerator_is_refused(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = model()
    fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    mesh: Any = next(module.parameters()).device_mesh  # type: ignore[attr-defined]
    monkeypatch.setattr(mesh, "_device_type", "cuda")
    with pytest.raises(ValueError, match="CPUOffloadPolicy"):
        make(module.parameters(), lr=0.1)


def test_one_parameter_that_is_split_otherwise_keeps_all_from_moving() -> None:
    module = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    columns = module[0].weight  # its gradient comes last

    def placement(parameter: nn.Parameter) -> Shard:
        return Shard(1 if parameter is columns else 0)

    fully_shard(module, mesh=init_device_mesh("cpu", (1,)), shard_placement_fn=placement)
    before = {name: w.full_tensor().clone() for name, w in weights(module).items()}
    optimizer = Lomo(module.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match=r"split along dimension 1.*No weight was changed"):
        train(module, optimizer)
    module.reshard()  # type: ignore[operator]
    after = {name: w.full_tensor() for name, w in weights(module).items()}
    assert max_difference(after, before) == 0.0


@pytest.mark.parametrize("max_grad_norm", [None, 0.3])
def test_hooks_on_sharded_parameters_are_honoured(max_grad_norm: float | None) -> None:
    """FSDP2 calls them itself, in the order of their dict; ours goes behind them there too."""
    found = []
    for kind in ("plain", "before", "after"):
        module = model()
        if kind != "plain":
            fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
        made = [] if kind != "after" else [Lomo(module.parameters(), lr=0.1)]
        for parameter in module.parameters():
            parameter.register_post_accumulate_grad_hook(halve)
        optimizer = made[0] if made else Lomo(module.parameters(), lr=0.1)
        optimizer.max_grad_norm = max_grad_norm
        train(module, optimizer, steps=3)
        full = {n: getattr(w, "full_tensor", lambda w=w: w)() for n, w in weights(module).items()}
        found.append(full)
    assert max_difference(found[0], found[1]) == max_difference(found[0], found[2]) == 0.0
