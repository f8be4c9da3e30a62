"""The price of each switch: what one flip takes of memory and time, all else as advised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lomo.advise.rows import Fit, RowKind, Setting, budget_bytes
from lomo.errors import UserError
from lomo.study.cards import CARDS, Card

if TYPE_CHECKING:
    from lomo.model.architecture import Architecture

CLIPPED = "gradient norm clipped"
# The first takes longest to simulate, so it is begun first.
FLIPS: Mapping[str, Mapping[str, Any]] = {
    CLIPPED: {"max_grad_norm": 1.0},
    "no checkpointing": {"checkpointing": False},
    "the model's own loss": {"head_loss": "model"},
    "eager attention": {"attention": "eager"},
    "float32 weights": {"dtype": "float32"},
}


@dataclass(frozen=True)
class Switch:
    """One flip: the peak with it; time_ratio: a step's time over that without, if known."""

    name: str
    peak_bytes: int
    time_ratio: float | None


def flipped(setting: Setting) -> dict[str, Setting]:
    """The flips that change anything here."""
    all_flips = {name: replace(setting, **change) for name, change in FLIPS.items()}
    return {name: flip for name, flip in all_flips.items() if flip != setting}


def peak_at(
    kind: RowKind, architecture: Architecture, setting: Setting, batch_size: int
) -> int | None:
    """The peak of one batch, None for what the model, or the method, refuses."""
    from lomo.memory.predicted.peaks import PeakByBatch

    try:
        return PeakByBatch(architecture, setting.spec(kind, architecture.name)).once(batch_size)
    except UserError:
        return None


def smallest_card(peak_bytes: int) -> Card | None:
    """The card of the table with least memory that holds such a peak, None where none does."""
    enough = [card for card in CARDS if budget_bytes(card.gib) >= peak_bytes]
    return min(enough, key=lambda card: card.gib, default=None)


def longest_sequence(
    fit: Fit, sequence_length: int, budget: int, positions: int | None
) -> int | None:
    """The longest sequence that fits alone, None where even one of those asked for does not.

    Without eager attention what a step takes depends on the number of tokens, hardly on how many
    sequences they are: so it is a line from the largest batch to one more. Rounded down to two
    digits, and never more than the model's positions.
    """
    if fit.next_bytes is None:
        return None
    rise = max(fit.next_bytes - fit.peak_bytes, 1)
    found = int(sequence_length * (fit.batch_size + (budget - fit.peak_bytes) / rise))
    if positions is not None and found >= positions:
        return positions
    unit = int(10 ** max(len(str(found)) - 2, 0))
    return max(found // unit * unit, sequence_length)
