"""A difference that has two sources of chance, seeds and examples, and whether it is decided.

docs/decisions/015 says why both are in one test, and what a simulation found of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import nctdtrinc, ndtri, stdtr, stdtrit

from .intervals import CONFIDENCE, Interval

POWER = 0.80


@dataclass(frozen=True)
class Part:
    """One source of chance: the variance that it gives to a mean, and its degrees of freedom."""

    variance: float
    df: int

    def half(self, tail: float) -> float:
        """Half of the interval that leaves out `tail` at each end."""
        if self.variance == 0:
            return 0.0
        return float(-stdtrit(self.df, tail)) * math.sqrt(self.variance)

    def seen(self, tail: float) -> float:
        """The least difference that a test which rejects `tail` at each end sees in 80 %."""
        if self.variance == 0:
            return 0.0
        # Of many degrees the noncentral t is normal, and its inverse no longer found.
        critical = float(-stdtrit(self.df, tail))
        many = self.df > 200
        shift = critical + ndtri(POWER) if many else nctdtrinc(self.df, 1 - POWER, critical)
        return float(shift) * math.sqrt(self.variance)


@dataclass(frozen=True)
class Difference:
    """How far one is above another, as a fraction, over `num_seeds` and `num_examples`.

    seeds: what other seeds would change, None of one seed, where that is not known. examples: what
    other examples would change beyond what the seeds already tell. alone: the whole error of the
    examples, as if there were no other seeds.
    """

    value: float
    seeds: Part | None
    examples: Part
    alone: Part
    num_seeds: int
    num_examples: int

    def above(self, margin: float) -> Difference:
        """The same, of how far it is above a margin."""
        known = (self.seeds, self.examples, self.alone, self.num_seeds, self.num_examples)
        return Difference(self.value - margin, *known)

    def half(self, tail: float = (1 - CONFIDENCE) / 2) -> float | None:
        """Half of the interval that leaves out `tail` at each end: the parts' own, squared and
        added, or that of the examples alone where it is wider, as three seeds may be alike by
        chance. None of one seed."""
        if self.seeds is None:
            return None
        both = math.hypot(self.seeds.half(tail), self.examples.half(tail))
        return max(both, self.alone.half(tail))

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval, None of one seed."""
        half = self.half()
        return None if half is None else (self.value - half, self.value + half)

    @property
    def p(self) -> float | None:
        """How often chance alone gives a difference so large, to either side; None of one seed."""
        if self.seeds is None:
            return None
        both = two_sided(self.value, (self.seeds, self.examples))
        return max(both, self.p_of_examples)

    @property
    def p_of_examples(self) -> float:
        """The same if there were no other seeds."""
        return two_sided(self.value, (self.alone,))

    @property
    def p_above(self) -> float:
        """How often chance alone gives a difference so high; of one seed, of its examples alone."""
        p = self.p_of_examples if self.p is None else self.p
        return p / 2 if self.value > 0 else 1 - p / 2

    def smallest(self, num_claims: int = 1) -> float | None:
        """The least difference that would be decided in 80 % of such studies, at 5 % over so many
        claims; None of one seed."""
        if self.seeds is None:
            return None
        tail = (1 - CONFIDENCE) / 2 / num_claims
        both = math.hypot(self.seeds.seen(tail), self.examples.seen(tail))
        return max(both, self.alone.seen(tail))


def two_sided(value: float, parts: tuple[Part, ...]) -> float:
    """The p of a value whose chance comes from independent parts: at that level the interval of
    half their halves, squared and added, ends at zero."""
    if abs(value) < 1e-12:  # equal accuracies may differ by a rounding of binary fractions
        return 1.0
    parts = tuple(part for part in parts if part.variance > 0)
    if not parts:
        return 0.0
    if len(parts) == 1:
        return 2 * float(stdtr(parts[0].df, -abs(value) / math.sqrt(parts[0].variance)))
    low, high = -700.0, math.log(0.5)  # of the logarithm of a tail
    for _ in range(60):
        middle = (low + high) / 2
        wide = math.hypot(*(part.half(math.exp(middle)) for part in parts)) > abs(value)
        low, high = (middle, high) if wide else (low, middle)
    return min(1.0, 2 * math.exp(high))
