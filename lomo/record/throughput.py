"""Tokens per second from the times of single steps."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lomo.record.schema import Throughput


@dataclass(frozen=True)
class TimedStep:
    """One optimizer step on the clock; `num_padded_tokens` counts tokens with padding."""

    seconds: float
    num_tokens: int
    num_padded_tokens: int


def summarise(steps: Sequence[TimedStep], *, num_warmup_steps: int, world_size: int) -> Throughput:
    """The throughput of `steps` after the warm-up. Raises ValueError with fewer than two left.

    Tokens without padding over seconds, both summed over the timed steps; the spread is the 10th
    and 90th percentile over steps.
    """
    timed = list(steps[num_warmup_steps:])
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
        num_warmup_steps=num_warmup_steps,
        num_timed_steps=len(timed),
        num_tokens_timed=tokens,
        padding_fraction=1 - tokens / padded,
        world_size=world_size,
    )
