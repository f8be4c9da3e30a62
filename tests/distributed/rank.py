"""One rank of the battery: `torchrun -m tests.distributed.rank ENGINE FOLDER`.

Every case of the engine is trained in this one process, since starting one takes seconds. What
each gave, or the error that it raised, goes to FOLDER/<rank>.pt.
"""

from __future__ import annotations

import gc
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lomo import engines
from lomo.engines.launch import leave
from lomo.engines.single import Single
from lomo.optim import AdaLomo, Lomo
from tests.distributed.cases import CASES, Case, prepare, train
from tests.numerics.models import llama, loss_of, weights

Facts = dict[str, Any]

# Each names one message of one package, and who has to fix it.
IGNORED = (
    # DeepSpeed 0.19 calls collectives of torch 2.13 by their old names.
    ("`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated", FutureWarning),
    # DeepSpeed compiles one of its optimizers on import, and torch 2.13 itself scripts then.
    ("`torch.jit.script", DeprecationWarning),
    # peft 0.21 asks transformers 5.23 by the old name.
    ("`is_gradient_checkpointing` is deprecated", FutureWarning),
)


def whole(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters, gathered."""
    found = {}
    for name, parameter in model.named_parameters():
        spread: Any = parameter
        if hasattr(spread, "ds_id"):
            import deepspeed

            with deepspeed.zero.GatheredParameters([spread]):
                found[name] = spread.detach().clone()
        else:
            full = spread.full_tensor() if hasattr(spread, "full_tensor") else spread
            found[name] = full.detach().clone()
    return found


def battery(engine: Single, name: str) -> dict[str, Callable[[], Facts]]:
    """By name, what gives the facts of each case."""

    def trained(case: Case) -> Facts:
        prepared, losses, norms = train(case, engine)
        engine.own_parts(prepared.model)  # FSDP2 shards what it still holds gathered
        state = prepared.optimizers[0][0].state
        columns = [s["column"] for s in state.values() if isinstance(s, dict) and "column" in s]
        facts = {"weights": whole(prepared.model), "losses": losses, "norms": norms}
        return {**facts, "columns": columns if name == "fsdp2" else []}

    tests: dict[str, Callable[[], Facts]] = {
        case.name: lambda case=case: trained(case)
        for case in CASES.values()
        if name in case.engines
    }
    for optimizer in (Lomo, AdaLomo):
        for limit in (None, 1.0):
            key = f"overflow-{optimizer.__name__}-{limit}"
            tests[key] = lambda o=optimizer, limit=limit: overflow_on_one_rank(engine, o, limit)
        tests[f"alive-{optimizer.__name__}"] = lambda o=optimizer: gradients_alive(engine, o)
        tests[f"parts-{optimizer.__name__}"] = lambda o=optimizer: parts_kept(engine, o)
    tests["resumed"] = lambda: resumed(engine)
    tests["differs"] = lambda: second_pass_differs_on_one_rank(engine)
    if name == "fsdp2":
        tests["replicas"] = lambda: refused(lambda model: model)
        tests["hybrid"] = lambda: hybrid()
        tests["columns"] = lambda: split_along_columns()
        tests["ddp"] = lambda: refused(
            nn.parallel.DistributedDataParallel
        )  # the last: it stays cut
    return tests


def spread_llama(engine: Single, make: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    case = Case({Lomo: "lomo", AdaLomo: "adalomo"}[make], direct={"weight_decay": 0.0, **options})
    prepared = prepare(case, engine)
    return prepared.model, prepared.optimizers[0][0]


def step_of(engine: Single, model: nn.Module, optimizer: Any, step: int) -> None:
    loss = loss_of(model, step * 10 + engine.rank)
    engine.before_backward(loss)
    optimizer.backward(loss)
    optimizer.step()


def overflow_on_one_rank(engine: Single, make: Callable[..., Any], limit: float | None) -> Facts:
    """Step 0 is good; in step 1 the loss of rank 1 is infinite; step 2 is good again."""
    model, optimizer = spread_llama(engine, make, loss_scale="dynamic", max_grad_norm=limit)
    scales, seen = [], [whole(model)]
    for step in range(3):
        loss = loss_of(model, step * 10 + engine.rank)
        if step == 1 and engine.rank == 1:
            loss = loss * float("inf")
        engine.before_backward(loss)
        optimizer.backward(loss)
        optimizer.step()
        engine.own_parts(model)
        seen.append(whole(model))
        scales.append(optimizer.loss_scale.value)
    return {"scales": scales, "seen": seen}


def gradients_alive(engine: Single, make: Callable[..., Any]) -> Facts:
    """Gradients that any parameter holds, sharded or whole, beside the one that is being used."""
    model, optimizer = spread_llama(engine, make)
    held: list[Tensor] = list(model.parameters())
    alive: list[int] = []
    take = optimizer._take_gradient

    def spy(parameter: Tensor, slot: Any) -> None:
        gathered = [p for p in model.parameters() if p is not parameter]
        others = [p for p in [*held, *gathered] if p is not parameter]
        alive.append(sum(p.grad is not None for p in others))
        take(parameter, slot)

    optimizer._take_gradient = spy
    step_of(engine, model, optimizer, 0)
    return {"alive": alive, "num_parameters": len(held)}


def parts_kept(engine: Single, make: Callable[..., Any]) -> Facts:
    """Weights kept by each rank, trained on, and written back, with a forward before and after."""
    model, optimizer = spread_llama(engine, make)
    step_of(engine, model, optimizer, 0)
    with torch.no_grad():
        before = float(loss_of(model, 0))
    kept = {key: part.clone() for key, part in engine.own_parts(model).items()}
    step_of(engine, model, optimizer, 1)
    with torch.no_grad():
        between = float(loss_of(model, 0))
        engine.load_parts(model, kept)
        after = float(loss_of(model, 0))
    return {"losses": (before, between, after)}


def resumed(engine: Single) -> Facts:
    """Weights after five steps, in one go and with the optimizer's state saved and loaded."""
    model, optimizer = spread_llama(engine, AdaLomo)
    for step in range(3):
        step_of(engine, model, optimizer, step)
    other, loaded = spread_llama(engine, AdaLomo)
    engine.load_parts(other, engine.own_parts(model))
    loaded.load_state_dict(optimizer.state_dict())
    for step in range(3, 5):
        step_of(engine, model, optimizer, step)
        step_of(engine, other, loaded, step)
    engine.own_parts(model), engine.own_parts(other)
    return {"straight": whole(model), "resumed": whole(other)}


class _TwiceAsMuch(torch.autograd.Function):
    """An identity whose second backward gives twice the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.calls = 0
        return x.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        ctx.calls += 1
        return dy * ctx.calls


def second_pass_differs_on_one_rank(engine: Single) -> Facts:
    """What each rank says of it: all must stop, or those that go on would wait for ever."""
    model, optimizer = spread_llama(engine, Lomo, max_grad_norm=1.0)
    loss = loss_of(model, engine.rank)
    if engine.rank == 1:
        loss = _TwiceAsMuch.apply(loss)
    engine.before_backward(loss)
    try:
        optimizer.backward(loss)
    except RuntimeError as error:
        return {"message": str(error)}
    return {"message": ""}


def refused(wrap: Callable[[nn.Module], nn.Module]) -> Facts:
    """Replicas that no engine has spread: the error, and whether a weight has moved."""
    messages, moved = [], []
    for limit in (None, 1.0):
        model = llama()
        before = weights(model)
        optimizer = Lomo(model.parameters(), lr=0.1, max_grad_norm=limit)
        wrapped = wrap(model)
        try:
            optimizer.backward(loss_of(wrapped, 0))
        except RuntimeError as error:
            messages.append(str(error))
        moved += [name for name, weight in weights(model).items() if (weight != before[name]).any()]
        optimizer.close()
    return {"messages": messages, "moved": moved}


def hybrid() -> Facts:
    """HSDP: replicas on one mesh dimension, and shards on the other."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    found = {}
    for shape in ((2, 1), (1, 2)):
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicas", "shards"))
        for make, rate in ((Lomo, 0.1), (AdaLomo, 0.01)):
            model = llama()
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            optimizer = make(model.parameters(), lr=rate, max_grad_norm=0.5)
            for step in range(2):
                optimizer.backward(loss_of(model, step * 10 + dist.get_rank()))
                optimizer.step()
            model.reshard()
            found[f"{make.__name__}-{shape}"] = whole(model)
    return found


def split_along_columns() -> Facts:
    """A split along another dimension than FSDP2's own."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    model = nn.Linear(4, 4, bias=False)
    fully_shard(model, shard_placement_fn=lambda parameter: Shard(1))
    optimizer = AdaLomo(model.parameters(), lr=0.1)
    before = whole(model)
    message = ""
    try:
        optimizer.backward(model(torch.ones(2, 4)).sum())
    except RuntimeError as error:
        message = str(error)
    model.reshard()
    moved = [name for name, weight in whole(model).items() if (weight != before[name]).any()]
    return {"messages": [message], "moved": moved}


def give_all(of: Callable[[Single, str, Path], dict[str, Callable[[], Facts]]]) -> None:
    """Starts the engine that the command line names; what `of` has gave goes to the folder."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    for message, category in IGNORED:
        warnings.filterwarnings("ignore", message, category)
    engine = engines.start(name, "cpu")
    gc.freeze()  # as tests/conftest.py does: optimizers look through all that the collector knows
    facts: dict[str, Facts] = {}
    for key, give in of(engine, name, folder).items():
        try:
            facts[key] = give()
        except Exception:
            facts[key] = {"error": traceback.format_exc()}
    torch.save(facts, folder / f"{engine.rank}.pt")
    leave()


if __name__ == "__main__":
    give_all(lambda engine, name, _: battery(engine, name))
