"""What comparing the two passes of a clipped step costs, and walking the graph for bystanders.

    python benchmarks/second_pass_cost.py [--in-gemm] [--dtype bfloat16] [--width 768 --layers 8]

Steps of a LLaMA (4 x 256 tokens; of 4 layers and width 512 about a second) with and without
each part, interleaved in one process, in changing order. CPU time, so that a busy machine does not
count. Two numbers: the parts' own time over a step's, and the ratio of whole steps; median, and the
range of the middle half.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

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


def middle(values: list[float]) -> str:
    """Median and the range of the middle half, in percent."""
    low, median, high = (100 * value for value in statistics.quantiles(values, n=4))
    return f"{median:.2f} % ({low:.2f} to {high:.2f})"


def main() -> None:
    """Prints both numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in-gemm", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=args.width,
        intermediate_size=args.width * 43 // 16,
        num_hidden_layers=args.layers,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, args.dtype))
    optimizer = Lomo(model.parameters(), lr=1e-3, max_grad_norm=1.0)
    if args.in_gemm:
        update_in_gemm(optimizer, model)
    tokens = torch.randint(0, 8192, (4, 256))
    parts = Parts()

    def step(there: bool) -> float:
        parts.use(there=there)
        started = time.process_time()
        optimizer.backward(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
        optimizer.step()
        return time.process_time() - started

    step(True), step(False)
    shares, ratios, seconds = [], [], []
    for _ in range(args.pairs):
        order = [True, False]
        random.shuffle(order)
        parts.seconds = 0.0
        took = {there: step(there) for there in order}
        shares.append(parts.seconds / took[True])
        ratios.append(took[True] / took[False] - 1.0)
        seconds.append(took[True])
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{size:.0f}M parameters, {args.dtype}, {torch.get_num_threads()} threads", end=", ")
    print(f"torch {torch.__version__}")
    print(f"a clipped step: {statistics.median(seconds):.2f} s of CPU time")
    print(f"the parts' own time: {middle(shares)}")
    print(f"whole steps, with over without: {middle(ratios)}")


if __name__ == "__main__":
    main()
