"""Orders that a test decides: what was measured, what it says of chance, and the verdict of it.

An order is decided where p, corrected for the claims of its table, is at most 5 % and nothing else
leaves it open (docs/protocol.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ..statistics import paired
from ..statistics.paired import Pairs
from ..statistics.several import holm
from ..statistics.speed import Ratio
from ..text.units import p_is
from .verdict import DIFFERS, REPRODUCED, UNDECIDED, Tested, Verdict

LEVEL = 0.05


@dataclass(frozen=True)
class Draft:
    """An order before the claims of its table are known.

    doubts: what leaves it open whatever the test says. smallest: of the number of claims, the
    least difference that could have been seen.
    """

    verdict: Verdict
    holds: bool
    doubts: Sequence[str] = ()
    p: float | None = None
    smallest: Callable[[int], float | None] = lambda num_claims: None


def settled(drafts: Iterable[Draft | Verdict]) -> list[Verdict]:
    """The verdicts on the orders of one table; those that were not put to the test stay."""
    known = list(drafts)
    corrected = holm([draft.p if isinstance(draft, Draft) else None for draft in known])
    num_claims = sum(p is not None for p in corrected)
    return [
        _settled(draft, p, num_claims) if isinstance(draft, Draft) else draft
        for draft, p in zip(known, corrected, strict=True)
    ]


def _settled(draft: Draft, p: float | None, num_claims: int) -> Verdict:
    doubts = list(draft.doubts)
    if p is not None and p > LEVEL:
        claims = "1 claim" if num_claims == 1 else f"{num_claims} claims"
        doubts.insert(0, f"{p_is(p)} for {claims}, above {LEVEL:g}")
    verdict = UNDECIDED if doubts else REPRODUCED if draft.holds else DIFFERS
    tested = draft.verdict.tested
    if tested is not None and p is not None:
        tested = replace(
            tested, p=p, num_claims=num_claims, smallest_difference=draft.smallest(num_claims)
        )
    reason = "; ".join([draft.verdict.reason, *doubts])
    return replace(draft.verdict, verdict=verdict, reason=reason, tested=tested)


def of_pairs(
    verdict: Verdict, pairs: list[Pairs] | str, margin: float, doubts: Sequence[str]
) -> Draft:
    """An order of accuracy: the first is at least a margin above the second."""
    if isinstance(pairs, str):
        return Draft(verdict, False, [pairs, *doubts])
    found = paired.difference(pairs)
    over, (low, high) = found.above(margin), found.interval or (None, None)
    examples_low, examples_high = paired.bootstrap(pairs)
    tested = Tested(
        difference=found.value,
        difference_low=low,
        difference_high=high,
        examples_low=examples_low,
        examples_high=examples_high,
        num_seeds=found.num_seeds,
        num_examples=found.num_examples,
    )
    if found.seeds is None:
        alone = paired.p_of_examples(pairs, margin)
        doubts = [
            f"one seed: another could turn it round (of its examples alone {p_is(alone)})",
            *doubts,
        ]
    return Draft(
        replace(verdict, tested=tested), over.value >= -1e-9, doubts, over.p, found.smallest
    )


def of_times(verdict: Verdict, ratio: Ratio | None, num: int, doubts: Sequence[str]) -> Draft:
    """An order of speed: the first takes less time; `ratio` is the second's time over its."""
    if ratio is None:
        return Draft(verdict, False, ["too few timed steps to tell", *doubts])
    low, high = ratio.interval
    tested = Tested(
        difference=ratio.value - 1,
        difference_low=low - 1,
        difference_high=high - 1,
        num_steps=num,
    )
    return Draft(
        replace(verdict, tested=tested), ratio.value > 1, doubts, ratio.p(), ratio.smallest
    )
