"""Where each axis ends for the advised row: the longest sequence, and the smallest card."""

from __future__ import annotations

from collections.abc import Sequence

from lomo.cards import CARDS, Card
from lomo.machine import GIB, RESERVE_GIB


def smallest_card(peak_bytes: int) -> Card | None:
    """The card of the table with least memory that holds such a peak, None where none does."""
    enough = [card for card in CARDS if (card.gib - RESERVE_GIB) * GIB >= peak_bytes]
    return min(enough, key=lambda card: card.gib, default=None)


def longest_sequence(
    points: Sequence[tuple[int, int]], budget_bytes: int, positions: int | None
) -> int:
    """The longest sequence within the budget, by the line through two points (tokens, bytes).

    Rounded down to two digits, since memory is only nearly a line in the length; and never more
    than the model's positions.
    """
    (short, low), (long, high) = points
    if high <= low:
        return positions or long
    found = short + (budget_bytes - low) * (long - short) // (high - low)
    if positions is not None and found >= positions:
        return positions
    unit = 10 ** max(len(str(found)) - 2, 0)
    return max(found // unit * unit, short)
