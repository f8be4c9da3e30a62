"""What is known of a method's accuracy, from a data file that names the source of each number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
