"""Bytes to the one unit of a rendered table, and numbers to text. Data files keep bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

EN_DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class Unit:
    """A unit of memory, in bytes."""

    name: str
    num_bytes: int

    def of(self, num_bytes: float) -> float:
        """`num_bytes` in this unit."""
        return num_bytes / self.num_bytes

    def text(self, num_bytes: object) -> str:
        """`num_bytes` in this unit as text; an en dash where there is no value."""
        value = number(num_bytes)
        return EN_DASH if value is None else decimals(self.of(value), 2)


GIB = Unit("GiB", 2**30)
MIB = Unit("MiB", 2**20)


def unit_for(values_bytes: Iterable[object]) -> Unit:
    """GiB where the largest value is above 0.1 GiB, else MiB."""
    known = [value for value in map(number, values_bytes) if value is not None]
    return GIB if known and max(known) > 0.1 * GIB.num_bytes else MIB


def number(value: object) -> float | None:
    """`value` as a float, or None where it is missing."""
    if value is None or value is pd.NA:
        return None
    result = float(value)  # type: ignore[arg-type]
    return None if math.isnan(result) else result


def decimals(value: object, places: int) -> str:
    """`value` with a fixed number of decimals; an en dash where it is missing."""
    known = number(value)
    if known is None:
        return EN_DASH
    text = f"{known:,.{places}f}"
    # A negative zero is a rounding artefact, not a finding.
    if float(text.replace(",", "")) == 0:
        return text.lstrip("-")
    return text.replace("-", "\N{MINUS SIGN}")


def percent(fraction: object, places: int = 1) -> str:
    """A fraction as percent without the sign; an en dash where it is missing."""
    known = number(fraction)
    return EN_DASH if known is None else decimals(100 * known, places)


def p_text(p: float) -> str:
    """A p for readers."""
    return "under 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_is(p: float) -> str:
    """A p in a sentence."""
    return f"p {p_text(p)}" if p < 0.001 else f"p = {p_text(p)}"
