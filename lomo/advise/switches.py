"""The price of each switch: what one flip takes of memory and time, all else as advised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lomo.advise.rows import RowKind, Setting
from lomo.errors import UserError

if TYPE_CHECKING:
    from lomo.memory.architecture import Architecture

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
    from lomo.memory.peaks import PeakByBatch

    try:
        return PeakByBatch(architecture, setting.spec(kind, architecture.name)).about(batch_size)
    except UserError:
        return None
