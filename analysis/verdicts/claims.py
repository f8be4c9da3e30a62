"""The paper's headline numbers, which follow from cells of its tables, computed from ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..paper.printed import printed
from ..records.collected import Collected
from ..text.units import decimals
from .verdict import (
    DIFFERS,
    NOT_COMPARABLE,
    NOT_RUN,
    PREDICTED,
    REPRODUCED,
    UNDECIDED,
    Verdict,
    judge,
)

# A headline is judged from measured cells, each named by its source and what.
Cells = dict[tuple[str, str], float]

_PEAK, _SPEED = "peak of a device", "tokens/s per device"


def _table2(size: str, title: str, label: str) -> tuple[str, str]:
    return ("Table 2", f"{size} {title}: {label}")


def _table3(title: str) -> tuple[str, str]:
    return ("Table 3", f"13B {title}: average")


# Claim -> the cells that it needs, and its value from them.
_FORMULAS: dict[str, tuple[list[tuple[str, str]], Callable[..., float]]] = {
    "memory_share": (
        [
            _table2("7B", "LOMO", _PEAK),
            _table2("7B", "AdamW", _PEAK),
            _table2("7B", "AdamW", "devices"),
        ],
        lambda lomo, adamw, num: 100 * lomo / (num * adamw),
    ),
    "speedup_adamw": (
        [_table2("7B", "LOMO", _SPEED), _table2("7B", "AdamW", _SPEED)],
        lambda lomo, adamw: lomo / adamw,
    ),
    "peak_65b": ([_table2("65B", "LOMO", _PEAK)], lambda peak: peak),
    "hours_65b": (
        [_table2("65B", "LOMO", _SPEED), _table2("65B", "LOMO", "devices")],
        lambda speed, num: 1000 * 512 / (speed * num) / 3600,
    ),
    "gain_zero_shot_13b": ([_table3("LOMO"), _table3("Zero-shot")], lambda a, b: a - b),
    "gain_lora_13b": ([_table3("LOMO"), _table3("LoRA")], lambda a, b: a - b),
}
# How a claim is judged: within a share of the printed value, at most it, at least it, or within
# an absolute tolerance.
_RULES: dict[str, tuple[str, float]] = {
    "memory_share": ("share", 0.05),
    "speedup_adamw": ("share", 0.15),
    "peak_65b": ("most", 0.0),
    "hours_65b": ("share", 0.15),
    "gain_zero_shot_13b": ("least", 0.0),
    "gain_lora_13b": ("points", 2.0),
}


def claim_verdicts(collected: Collected, numbers: Sequence[Verdict]) -> list[Verdict]:
    """A verdict for each headline number; the cells' own verdicts give what is missing, and why."""
    by_name = {(verdict.source, verdict.what): verdict for verdict in numbers}
    return [_claim(claim, by_name) for claim in printed("claims").itertuples()]


def _claim(claim: Any, by_name: dict[tuple[str, str], Verdict]) -> Verdict:
    cells = [by_name[name] for name in _FORMULAS[claim.column][0]]
    verdict = _judged(claim, cells)
    predicted = [cell.prediction for cell in cells if cell.prediction]
    if not predicted or verdict.measured is None:
        return verdict
    return replace(verdict, basis=PREDICTED, prediction=" ".join(dict.fromkeys(predicted)))


def _judged(claim: Any, cells: Sequence[Verdict]) -> Verdict:
    formula = _FORMULAS[claim.column][1]
    words = f"{claim.value} {claim.unit}"
    lacking = next((cell for cell in cells if cell.verdict in (NOT_COMPARABLE, NOT_RUN)), None)
    if lacking is not None:
        return Verdict("Claim", claim.row, words, None, None, lacking.verdict, lacking.reason)
    run_id = " ".join(dict.fromkeys(cell.run_id for cell in cells if cell.run_id))
    try:
        measured = formula(*(_number(cell) for cell in cells))
    except ValueError:
        reason = "a run that it needs did not end well"
        return Verdict("Claim", claim.row, words, None, None, DIFFERS, reason, run_id=run_id)
    kind, size = _RULES[claim.column]
    # Cells with an error are accuracies, and the claim a difference of them.
    error = math.hypot(*(cell.error or 0.0 for cell in cells))
    verdict, tolerance = _judge(float(claim.value), measured, kind, size, error)
    text = f"{decimals(measured, 1)} {claim.unit}"
    reason = "computed from the cells that it stands on"
    if verdict == UNDECIDED:
        reason += f", whose error is {decimals(error, 1)} {claim.unit}"
    if any(cell.num_seeds == 1 for cell in cells):
        verdict, reason = UNDECIDED, f"{reason}; one seed: another could turn it round"
    return Verdict(
        "Claim", claim.row, words, text, tolerance, verdict, reason, False, run_id, error or None
    )


def _number(cell: Verdict) -> float:
    """The measured number of a cell. Raises ValueError where it is a failure's name."""
    return float((cell.measured or "").split(" ")[0].replace(",", ""))


def _judge(target: float, measured: float, kind: str, size: float, error: float) -> tuple[str, str]:
    """The verdict and the tolerance in words; undecided unless all of measured +- error gets it."""
    tolerance = size * target if kind == "share" else size
    words = {"most": "at most the printed value", "least": "at least the printed value"}

    def at(value: float) -> str:
        if kind == "most":
            return REPRODUCED if value <= target else DIFFERS
        if kind == "least":
            return REPRODUCED if value >= target else DIFFERS
        return judge(target, value, tolerance)

    low, high = measured - error, measured + error
    found = {at(value) for value in (low, high, min(max(target, low), high))}
    return found.pop() if len(found) == 1 else UNDECIDED, words.get(kind) or decimals(tolerance, 1)
