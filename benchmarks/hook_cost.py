"""What a fused optimizer's hooks cost where a model has many tensors: LLaMA-65B has 723.

    python benchmarks/hook_cost.py

Tensors of 16 x 16, so that the arithmetic is nothing and what is left is Python. Milliseconds of
CPU time of a backward over the floor, whose hooks only drop each gradient: the fastest of each
round, rounds interleaved in one process, median and range. Needs lomo-optim 0.1.1 for its row.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lomo.optim import AdaLomo, Lomo

NUM_TENSORS = 723
NUM_ROUNDS = 5
NUM_STEPS = 10

Step = Callable[[Tensor], None]


def floor(params: list[nn.Parameter]) -> Step:
    """Each gradient is dropped in its hook."""
    for parameter in params:
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
    return lambda loss: loss.backward()


def fused(make: Callable[..., Lomo | AdaLomo], **options: object) -> Callable[..., Step]:
    """An optimizer of ours."""

    def build(params: list[nn.Parameter]) -> Step:
        optimizer = make(params, lr=1e-3, **options)

        def step(loss: Tensor) -> None:
            optimizer.backward(loss)
            optimizer.step()

        return step

    return build


def lomo_optim(params: list[nn.Parameter]) -> Step:
    """The released package, which looks at every parameter in every hook."""
    from lomo_optim import Lomo as Released

    model = nn.Module()
    for number, parameter in enumerate(params):
        model.register_parameter(f"p{number}", parameter)
    optimizer = Released(model, lr=1e-3)
    return lambda loss: optimizer.fused_backward(loss, 1e-3)


WAYS: dict[str, Callable[[list[nn.Parameter]], Step]] = {
    "floor": floor,
    "Lomo": fused(Lomo),
    "Lomo, exact clip (two backwards)": fused(Lomo, max_grad_norm=1.0),
    "Lomo, each tensor's norm": fused(Lomo, max_grad_norm=1.0, norm_scope="parameter"),
    "Lomo, last step's norm": fused(Lomo, max_grad_norm=1.0, norm_scope="previous_step"),
    "AdaLomo": fused(AdaLomo),
}
if importlib.util.find_spec("lomo_optim"):
    WAYS["lomo-optim 0.1.1"] = lomo_optim


def milliseconds(build: Callable[[list[nn.Parameter]], Step], dtype: torch.dtype) -> float:
    """The fastest backward of some, in a model of its own."""
    params = [nn.Parameter(torch.ones(16, 16, dtype=dtype)) for _ in range(NUM_TENSORS)]
    factors = [torch.full((16, 16), 1e-3, dtype=dtype) for _ in params]
    step, fastest = build(params), float("inf")
    for _ in range(NUM_STEPS):
        pairs = zip(params, factors, strict=True)
        loss = torch.stack([(p * factor).sum() for p, factor in pairs]).sum()
        started = time.process_time()
        step(loss)
        fastest = min(fastest, time.process_time() - started)
    return fastest * 1e3


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    print(f"{NUM_TENSORS} tensors, 1 thread, torch {torch.__version__}")
    for dtype in (torch.bfloat16, torch.float32):
        rounds = [
            {name: milliseconds(way, dtype) for name, way in WAYS.items()}
            for _ in range(NUM_ROUNDS)
        ]
        floors = [row["floor"] for row in rounds]
        print(f"\n{dtype}: floor {statistics.median(floors):.1f} ms")
        for name in list(WAYS)[1:]:
            over = sorted(row[name] - row["floor"] for row in rounds)
            spread = f"({over[0]:.1f} to {over[-1]:.1f})"
            print(f"  {name:34} + {statistics.median(over):6.1f} ms {spread}")


if __name__ == "__main__":
    main()
