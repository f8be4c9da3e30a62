"""What two benchmarks of a step's parts share: the model, steps in turn, and how they are told."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable
from typing import TypeVar

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 8192
Taken = TypeVar("Taken")


def llama(width: int, layers: int, dtype: torch.dtype) -> LlamaForCausalLM:
    """A LLaMA with the proportions of the 7B's, the same weights each time."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=width * 43 // 16,
        num_hidden_layers=layers,
    )
    return LlamaForCausalLM(config).to(dtype)


def in_turn(step: Callable[[bool], Taken], pairs: int) -> list[tuple[Taken, Taken]]:
    """What `step(True)` and `step(False)` gave, pair by pair, in changing order; after one each."""
    step(True), step(False)
    taken = []
    for _ in range(pairs):
        order = [True, False]
        random.shuffle(order)
        of = {there: step(there) for there in order}
        taken.append((of[True], of[False]))
    return taken


def middle(values: list[float]) -> str:
    """Median and the range of the middle half, in percent."""
    low, median, high = (100 * value for value in statistics.quantiles(values, n=4))
    return f"{median:.2f} % ({low:.2f} to {high:.2f})"
