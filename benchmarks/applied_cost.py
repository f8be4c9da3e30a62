"""What it costs to watch how much of a step 16-bit weights take.

    python benchmarks/applied_cost.py [--method lomo|adalomo|master] [--width 768 --layers 8]

Steps of a LLaMA (4 x 256 tokens) in bfloat16 with and without watching, interleaved in one process,
in changing order. CPU time, so that a busy machine does not count. Two numbers of a watched step:
the watching's own time over a step's, and the ratio of whole steps; median, and the range of the
middle half. A training watches an eighth of its steps and 16 at most: the cost is that part of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from interleaved import VOCABULARY, in_turn, llama, middle

from lomo.optim import AdaLomo, Lomo, MasterCopy
from lomo.record.applied import group_of

METHODS: dict[str, tuple[Callable[..., Any], str]] = {
    "lomo": (lambda params: Lomo(params, lr=1e-3), "_update"),
    "adalomo": (lambda params: AdaLomo(params, lr=1e-3), "_write"),
    "master": (lambda params: MasterCopy(params, torch.optim.SGD, lr=1e-3), "_step_one"),
}


class Timed:
    """A method of a class with the CPU time that its calls took."""

    def __init__(self, kind: type, name: str) -> None:
        self.seconds = 0.0
        own = getattr(kind, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return own(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - started

        setattr(kind, name, call)


def main() -> None:
    """Prints both numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", choices=METHODS, default="lomo")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of each of 4 sequences")
    args = parser.parse_args()
    model = llama(args.width, args.layers, torch.bfloat16)
    make, method = METHODS[args.method]
    optimizer = make(model.parameters())
    applied = optimizer.applied_steps({p: group_of(name) for name, p in model.named_parameters()})
    kind = type(optimizer)
    inner, outer = Timed(kind, method), Timed(kind, f"{method}_watched")
    # Made again, of the timed method.
    applied = optimizer.applied_steps({p: group_of(name) for name, p in model.named_parameters()})
    tokens = torch.randint(0, VOCABULARY, (4, args.tokens))

    def step(watched: bool) -> tuple[float, float]:
        """(the watching's own time, the step's)"""
        inner.seconds = outer.seconds = 0.0
        started = time.process_time()
        with applied.watching() if watched else nullcontext():
            model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        before = time.process_time()
        applied.read()
        ended = time.process_time()
        own = outer.seconds - inner.seconds + ended - before if watched else 0.0
        return own, ended - started

    pairs = in_turn(step, args.pairs)
    shares = [own / whole for (own, whole), _ in pairs]
    ratios = [whole / without - 1.0 for (_, whole), (_, without) in pairs]
    seconds = [without for _, (_, without) in pairs]
    size = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{args.method}, {size:.1f}M parameters, bfloat16, {torch.get_num_threads()} threads")
    print(f"torch {torch.__version__}; a step: {statistics.median(seconds):.3f} s of CPU time")
    print(f"a watched step, the watching's own time: {middle(shares)}")
    print(f"a watched step, with over without: {middle(ratios)}")


if __name__ == "__main__":
    main()
