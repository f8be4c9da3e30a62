"""Tokens per second from the times of single steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lomo.record.schema import Throughput

# Of a training: first steps allocate and choose kernels, those of a resumed one again.
NUM_WARMUP_STEPS = 3


@dataclass(frozen=True)
class TimedStep:
    """One optimizer step on the clock; `num_padded_tokens` counts tokens with padding."""

    seconds: float
    num_tokens: int
    num_padded_tokens: int


def after_warmup(num_steps: int, num_warmup_steps: int, resumed_at: Sequence[int]) -> list[int]:
    """Indices of the steps that are timed: the first of each process warm up."""
    warm = {start + step for start in (0, *resumed_at) for step in range(num_warmup_steps)}
    return [index for index in range(num_steps) if index not in warm]


def summarise(
    steps: Sequence[TimedStep],
    *,
    num_warmup_steps: int,
    world_size: int,
    resumed_at: Sequence[int] = (),
) -> Throughput:
    """The throughput of `steps` after the warm-up. Raises ValueError with fewer than two left.

    Tokens without padding over seconds, both summed over the timed steps; the spread is the 10th
    and 90th percentile over steps. `resumed_at`: the steps after which another process went on,
    and warmed up as well.
    """
    chosen = after_warmup(len(steps), num_warmup_steps, resumed_at)
    timed = [steps[index] for index in chosen]
    if len(timed) < 2:
        raise ValueError(f"{len(timed)} timed steps give no spread; at least 2 are needed")
    tokens = sum(step.num_tokens for step in timed)
    padded = sum(step.num_padded_tokens for step in timed)
    rates = [step.num_tokens / step.seconds / world_size for step in timed]
    deciles = statistics.quantiles(rates, n=10, method="inclusive")
    return Throughput(
        tokens_per_s_per_device=tokens / sum(step.seconds for step in timed) / world_size,
        tokens_per_s_per_device_p10=deciles[0],
        tokens_per_s_per_device_p90=deciles[-1],
        step_s_median=statistics.median(step.seconds for step in timed),
        num_warmup_steps=len(steps) - len(timed),
        num_timed_steps=len(timed),
        num_tokens_timed=tokens,
        padding_fraction=1 - tokens / padded,
        world_size=world_size,
    )
