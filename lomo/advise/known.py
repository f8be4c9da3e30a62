"""What is known of a method from elsewhere: its accuracy, from a data file that names the source of
each number, and the bytes of AdamW's 8-bit state, of the installed bitsandbytes or its documents.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

FACTS = Path(__file__).with_name("known.yaml")


@dataclass(frozen=True)
class Fact:
    """One finding on a method. beside_adamw: points, None where the source has no AdamW row.

    short: what a table's cell says. text: the finding in a sentence. source: whose it is.
    confirmed: whether the number was read in its source.
    """

    method: str
    short: str
    text: str
    source: str
    beside_adamw: float | None = None
    confirmed: bool = True


@cache
def facts() -> Sequence[Fact]:
    """All facts, in the order of the file."""
    data = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    sources = data["sources"]
    return [Fact(**{**entry, "source": sources[entry["source"]]}) for entry in data["facts"]]


@cache
def order() -> Sequence[str]:
    """Row names, the first that fits being advised."""
    return list(yaml.safe_load(FACTS.read_text(encoding="utf-8"))["order"])


def of(method: str) -> list[Fact]:
    """The facts on a row's method."""
    return [fact for fact in facts() if fact.method == method]


# Two moments of a byte each, in blocks of 256 with a scale in fp32.
DOCUMENTED = 2 * (1 + 4 / 256)
_SIDE = 1024  # of a weight large enough to get 8-bit state
_TABLE = 256  # values of a table that all weights share


@cache
def state_bytes() -> tuple[float, str]:
    """Bytes a parameter of a large weight, and whose number that is."""
    try:
        found = version("bitsandbytes")
    except PackageNotFoundError:
        return DOCUMENTED, "bitsandbytes' documented bytes of state (it is not installed)"
    try:
        return _asked(), f"the bytes of state that bitsandbytes {found} makes"
    except (ImportError, AttributeError, TypeError, RuntimeError, NotImplementedError):
        return DOCUMENTED, f"bitsandbytes' documented bytes of state ({found} can't be asked here)"


def _asked() -> float:
    """Of the state that the library makes of one weight."""
    import torch

    optim: Any = importlib.import_module("bitsandbytes.optim")
    weight = torch.nn.Parameter(torch.zeros(_SIDE, _SIDE, dtype=torch.bfloat16))
    weight.grad = torch.zeros_like(weight)
    optimizer = optim.AdamW8bit([weight])
    optimizer.init_state(optimizer.param_groups[0], weight, 0, 0)
    made = [v for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor)]
    num_bytes = sum(v.numel() * v.element_size() for v in made if v.numel() != _TABLE)
    return num_bytes / weight.numel()
