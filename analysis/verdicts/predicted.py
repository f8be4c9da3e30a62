"""Verdicts on the paper's memory without a run: Tables 1 and 2 and Figure 2, predicted.

The prediction is that of the paper's own setting: its size, its devices and its modelling code.
Tolerances are those of measured values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lomo.study.cards import CARDS

from ..paper import predictions as paper_predictions
from ..paper.predictions import JUNE_2023, Predicted, file_of, find
from ..paper.printed import difference, signed, value_text, why_throughput
from ..records.comparable import PAPER_GPU
from ..text.units import GIB, decimals
from .costs import (
    ACTIVATIONS,
    PEAK,
    SHARE_POINTS,
    memory_tolerance,
    memory_what,
    share_what,
    throughput_what,
)
from .verdict import (
    DIFFERS,
    NOT_COMPARABLE,
    NOT_RUN,
    PREDICTED,
    REPRODUCED,
    Verdict,
    erratum,
    judged,
    verdict_on,
)

# What a process sees of the paper's card.
CARD = next(card for card in CARDS if card.name == f"RTX {PAPER_GPU}")
STALE = "stale, by other code"
NO_SPEED = f"a prediction tells memory, not speed, and nothing of ours ran on an RTX {PAPER_GPU}"


def predicted_instead(name: str, cell: Any, measured: Verdict) -> Verdict:
    """The verdict by prediction on a value of analysis/paper/<name>.csv that no run stands for.

    `measured` itself where the value is none that can be predicted.
    """
    if measured.verdict not in (NOT_COMPARABLE, NOT_RUN) or name not in PREDICTORS:
        return measured
    found = PREDICTORS[name](cell)
    if found is None:
        return measured
    if found.verdict == NOT_RUN:  # a speed: what the study says of its own runs says more
        return measured if measured.run_id or measured.verdict == NOT_RUN else found
    if measured.run_id:
        found = replace(found, reason=f"{found.reason}; the study's own run: {measured.reason}")
    return found


def predicted_memory_verdict(cell: Any) -> Verdict | None:
    """The verdict on one value of Table 1, None where it is not predicted."""
    size, method, setting = cell.row.split("/")
    row = find(JUNE_2023, "memory", size, method, setting == "checkpointed")
    size_bytes = row.term(cell.column) if row else None
    if row is None or size_bytes is None:
        return None
    tolerance, value = memory_tolerance(cell), GIB.of(size_bytes)
    off = difference(size_bytes, float(cell.value))
    # In GiB of two digits both may look the same.
    share = f"{signed(off)} %" if off is not None and abs(off) > ACTIVATIONS else ""
    notes = [share, erratum(cell)]
    return _of(row, judged(cell, memory_what(cell), "", value, tolerance, "GiB", 2, notes))


def predicted_throughput_verdict(cell: Any) -> Verdict | None:
    """The verdict on one value of Table 2: a speed is not run, None where nothing is predicted."""
    what = throughput_what(cell)
    size, method = cell.row.split("/")
    if cell.column not in ("num_devices", "peak"):
        return verdict_on(cell, what, NOT_RUN, NO_SPEED)
    row = find(JUNE_2023, "throughput", size, method, True)
    peak_bytes = row.peak_bytes if row else None
    if row is None or peak_bytes is None:
        return None
    peak_gib = GIB.of(peak_bytes)
    fits = peak_gib <= CARD.gib
    text = f"{decimals(peak_gib, 2)} GiB"
    card = f"an RTX {PAPER_GPU}, {decimals(CARD.gib, 2)} GiB"
    if cell.column == "num_devices":
        printed_oom = row_is_oom(cell.row)
        verdict = REPRODUCED if fits != printed_oom else DIFFERS
        reason = f"on so many a device takes {text}, which {'fits' if fits else 'is above'} {card}"
        reason += ", as printed" if verdict == REPRODUCED else ""
        return _of(row, verdict_on(cell, what, verdict, reason, decimals(row.spec.num_devices, 0)))
    if cell.value == "OOM":
        verdict = DIFFERS if fits else REPRODUCED
        reason = f"it {'fits' if fits else 'is above'} {card}"
        return _of(row, verdict_on(cell, what, verdict, reason, text))
    why = why_throughput(row)
    return _of(row, judged(cell, what, "", peak_gib, PEAK * float(cell.value), "GiB", 2, why))


def row_is_oom(row: str) -> bool:
    """Whether the paper ran out of memory in this row of Table 2."""
    return value_text("table2_throughput", row, "peak") == "OOM"


def predicted_share_verdict(cell: Any) -> Verdict | None:
    """The verdict on one value of Figure 2, None where it is not predicted."""
    size, method, _ = cell.row.split("/")
    row = find(JUNE_2023, "memory", size, method, True)
    part, total = (row.term(cell.column), row.term("total")) if row else (None, None)
    if row is None or part is None or not total:
        return None
    share = 100 * part / total
    return _of(row, judged(cell, share_what(cell), "", share, SHARE_POINTS, "%", 1, []))


def _of(row: Predicted, verdict: Verdict) -> Verdict:
    reason = f"{verdict.reason}; {STALE}" if paper_predictions.is_stale(row) else verdict.reason
    return replace(verdict, basis=PREDICTED, prediction=file_of(row), reason=reason)


# File of analysis/paper -> what judges one of its values without a run.
PREDICTORS: dict[str, Callable[[Any], Verdict | None]] = {
    "table1_memory": predicted_memory_verdict,
    "table2_throughput": predicted_throughput_verdict,
    "figure2_shares": predicted_share_verdict,
}
