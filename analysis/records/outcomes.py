"""Which examples each scored run gets right: written by collect, read by what is paired."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lomo.errors import UserError

from .collect import outcomes_path
from .collected import Collected


@dataclass(frozen=True)
class Outcomes:
    """One run's test examples: a hash of which they are, 0 or 1 for each, and its group's number
    where the task has groups."""

    examples: int
    right: NDArray[np.float64]
    groups: NDArray[np.int64] | None


@dataclass(frozen=True)
class Answers:
    """One run's held-out answers: a hash of which they are, each one's loss in nats and tokens."""

    examples: int
    losses: NDArray[np.float64]
    lengths: NDArray[np.float64]


@cache
def outcomes(collected: Collected) -> dict[str, Outcomes]:
    """The outcomes by run id. Raises UserError where collect has not written them."""
    columns = ("run_id", "examples", "right", "groups")
    return {
        run_id: Outcomes(int(examples), _right(right), _groups(groups))
        for run_id, examples, right, groups in _rows(collected, columns)
    }


@cache
def answers(collected: Collected) -> dict[str, Answers]:
    """The answers by run id. Raises UserError where collect has not written them."""
    columns = ("run_id", "examples", "losses", "lengths")
    return {
        run_id: Answers(int(examples), np.array(losses), np.array(lengths, dtype=float))
        for run_id, examples, losses, lengths in _rows(collected, columns)
    }


def _rows(collected: Collected, columns: tuple[str, ...]) -> list[Any]:
    """The rows of which the third of these columns tells something."""
    path = outcomes_path(collected.folder)
    try:
        frame = pd.read_parquet(path)[list(columns)]
        return list(frame[frame[columns[2]].notna()].itertuples(index=False))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            "the outcomes of single examples are not there, or were cut",
            where=str(path),
            fix=f"collect again: python -m lomo_analysis collect --results {collected.folder}",
        ) from error


def _right(text: str) -> NDArray[np.float64]:
    return (np.frombuffer(text.encode(), dtype=np.uint8) - ord("0")).astype(float)


def _groups(numbers: object) -> NDArray[np.int64] | None:
    # Numbered anew, so that none is left out.
    return None if numbers is None else np.unique(numbers, return_inverse=True)[1]  # type: ignore[call-overload]
