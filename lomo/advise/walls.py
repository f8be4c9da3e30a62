"""Where each axis ends for the advised row: the longest sequence, and the smallest card."""

from __future__ import annotations

from lomo.advise.rows import Fit
from lomo.cards import CARDS, Card
from lomo.machine import GIB, RESERVE_GIB


def smallest_card(peak_bytes: int) -> Card | None:
    """The card of the table with least memory that holds such a peak, None where none does."""
    enough = [card for card in CARDS if (card.gib - RESERVE_GIB) * GIB >= peak_bytes]
    return min(enough, key=lambda card: card.gib, default=None)


def longest_sequence(
    fit: Fit, sequence_length: int, budget_bytes: int, positions: int | None
) -> int | None:
    """The longest sequence that fits alone, None where even one of those asked for does not.

    Without eager attention what a step takes depends on the number of tokens, hardly on how many
    sequences they are: so it is a line from the largest batch to one more. Rounded down to two
    digits, and never more than the model's positions.
    """
    if fit.next_bytes is None:
        return None
    rise = max(fit.next_bytes - fit.peak_bytes, 1)
    found = int(sequence_length * (fit.batch_size + (budget_bytes - fit.peak_bytes) / rise))
    if positions is not None and found >= positions:
        return positions
    unit = int(10 ** max(len(str(found)) - 2, 0))
    return max(found // unit * unit, sequence_length)
