"""What comparing the two passes of a clipped step costs, and walking the graph for bystanders.

    python benchmarks/second_pass_cost.py [--in-gemm] [--dtype bfloat16] [--width 768 --layers 8]

Steps of a LLaMA (4 x 256 tokens; of 4 layers and width 512 about a second) with and without
each part, interleaved in one process, in changing order. CPU time, so that a busy machine does not
count. Two numbers: the parts' own time over a step's, and the ratio of whole steps; median, and the
range of the middle half.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from interleaved import VOCABULARY, in_turn, llama, middle
from torch import Tensor

from lomo.optim import Lomo, update_in_gemm
from lomo.optim.guards.bystanders import Bystanders
from lomo.optim.guards.second_pass import SecondPass

PARTS: dict[str, tuple[type, tuple[str, ...]]] = {
    "comparing the passes": (SecondPass, ("note", "require_reproduced")),
    "looking for bystanders": (Bystanders, ("of",)),
}


def nothing(*args: Any, **kwargs: Any) -> list[Tensor]:
    """Stands in for a part."""
    return []


class Parts:
    """The parts as they are, timed, or left out."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._own = [
            (kind, name, getattr(kind, name)) for kind, names in PARTS.values() for name in names
        ]

    def _timed(self, part: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return part(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - started

        return call

    def use(self, *, there: bool) -> None:
        """From now on they are there, or not."""
        for kind, name, part in self._own:
            setattr(kind, name, self._timed(part) if there else nothing)


def main() -> None:
    """Prints both numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in-gemm", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    model = llama(args.width, args.layers, getattr(torch, args.dtype))
    optimizer = Lomo(model.parameters(), lr=1e-3, max_grad_norm=1.0)
    if args.in_gemm:
        update_in_gemm(optimizer, model)
    tokens = torch.randint(0, VOCABULARY, (4, 256))
    parts = Parts()

    def step(there: bool) -> tuple[float, float]:
        """(the parts' own time, the step's)"""
        parts.seconds = 0.0
        parts.use(there=there)
        started = time.process_time()
        optimizer.backward(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
        optimizer.step()
        return parts.seconds, time.process_time() - started

    pairs = in_turn(step, args.pairs)
    shares = [own / whole for (own, whole), _ in pairs]
    ratios = [whole / without - 1.0 for (_, whole), (_, without) in pairs]
    seconds = [whole for (_, whole), _ in pairs]
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{size:.0f}M parameters, {args.dtype}, {torch.get_num_threads()} threads", end=", ")
    print(f"torch {torch.__version__}")
    print(f"a clipped step: {statistics.median(seconds):.2f} s of CPU time")
    print(f"the parts' own time: {middle(shares)}")
    print(f"whole steps, with over without: {middle(ratios)}")


if __name__ == "__main__":
    main()
