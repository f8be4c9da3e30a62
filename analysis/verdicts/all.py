"""Verdicts: every printed number of the paper beside the measured one, and its claims as orders.

A verdict is reproduced, differs, undecided, not comparable or not run, always with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

import pandas as pd

from ..paper.printed import printed
from ..records.collected import Collected
from ..text.grid import Block, Cell, Table
from ..text.names import listed
from ..text.units import EN_DASH, decimals, p_is, p_text, percent
from .accuracy import hyperparameter_verdict, lora_rank_verdict, superglue_verdict
from .claims import claim_verdicts
from .costs import memory_verdict, share_verdict, throughput_verdict
from .decided import LEVEL
from .orders import order_verdicts
from .predicted import predicted_instead
from .verdict import (
    DIFFERS,
    KINDS,
    MEASURED,
    MEASURED_ON,
    NEVER_RUN,
    PREDICTED,
    SPEED,
    TESTED,
    Tested,
    Verdict,
    counts_by_kind,
)

# File of analysis/paper -> what judges one of its values.
JUDGES: dict[str, Callable[[Collected, Any], Verdict]] = {
    "table1_memory": memory_verdict,
    "table2_throughput": throughput_verdict,
    "table3_superglue": superglue_verdict,
    "table4_hyperparameters": hyperparameter_verdict,
    "figure2_shares": share_verdict,
    "figure3_lora_rank": lora_rank_verdict,
}


def number_verdicts(collected: Collected) -> list[Verdict]:
    """A verdict for every value in analysis/paper, in the paper's order.

    Of memory that no run of the study stands for, the verdict is that of the prediction.
    """
    verdicts = [
        predicted_instead(name, cell, judge_one(collected, cell))
        for name, judge_one in JUDGES.items()
        for cell in printed(name).itertuples()
    ]
    return [*verdicts, *claim_verdicts(collected, verdicts)]


def all_verdicts(collected: Collected) -> list[Verdict]:
    """The claims as orders first, then the numbers, in the paper's order."""
    runs = collected.runs[collected.runs["device_kind"] == "cuda"]
    devices = dict(zip(runs["run_id"], runs["device_name"], strict=True))
    found = [*order_verdicts(collected), *number_verdicts(collected)]
    return [
        replace(verdict, basis=_basis(verdict, devices))
        if verdict.measured is not None and verdict.basis == NEVER_RUN
        else verdict
        for verdict in found
    ]


def _basis(verdict: Verdict, devices: dict[str, str]) -> str:
    """What a measured verdict stands on: the GPUs of its runs by name, or this machine."""
    names = {devices.get(run_id) for run_id in verdict.run_id.split()} - {None}
    return f"{MEASURED_ON}{listed(sorted(map(str, names)))}" if names else MEASURED


def table_verdicts(collected: Collected) -> Table:
    """The verdicts of a study; numbers that share a verdict and reason stand in one line."""
    verdicts = all_verdicts(collected)
    return Table(
        name="verdicts",
        title="Verdicts",
        caption=(
            f"The paper's claims and printed numbers against this study. {counted(verdicts)}. "
            "Claims about which is larger can be tested on any model; numbers only where model, "
            "data and setting are the paper's, or where they were predicted for them. Undecided: "
            "within the error of what was measured, which is no evidence for the claim, nor "
            f"against it. Orders of accuracy and speed are decided by a test: p at most {LEVEL:g}, "
            "corrected by Holm for the claims of the same table (docs/protocol.md)."
        ),
        blocks=_blocks(verdicts),
        notes=_notes(verdicts),
        data=_data(verdicts),
    )


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts of each name, kind by kind, and how many of those are of predictions."""
    texts = []
    for kind, of in counts_by_kind(verdicts).items():
        parts = []
        for name, text in of.items():
            number, _, predicted = text.partition(" ")
            parts += [f"{number} {name}{f' {predicted}' if predicted else ''}"] if text else []
        texts.append(f"{kind.capitalize()}: {', '.join(parts)}")
    return "; ".join(texts)


def anchor(verdicts: Sequence[Verdict], verdict: Verdict) -> str:
    """The id of a verdict's row in a page."""
    return f"verdict-{verdicts.index(verdict) + 1}"


def _blocks(verdicts: Sequence[Verdict]) -> list[Block]:
    numbers = [verdict for verdict in verdicts if not verdict.order]
    judged = [v for v in numbers if v.verdict in TESTED]
    blocks = []
    for kind in KINDS:
        orders = [v for v in verdicts if v.order and v.kind == kind]
        if orders:
            blocks.append(_orders(orders, kind, [anchor(verdicts, v) for v in orders]))
    for predicted, heading in (
        (False, "Printed numbers"),
        (True, "Printed numbers, predicted in the paper's setting"),
    ):
        of = [v for v in judged if (v.basis == PREDICTED) == predicted]
        if of:
            blocks.append(_numbers(of, heading, [anchor(verdicts, v) for v in of]))
    rest = [v for v in numbers if v.verdict not in TESTED]
    if rest:
        blocks.append(
            Block(
                ["source", "verdict", "reason", "printed values"],
                _collapsed(rest),
                3,
                heading="Printed numbers that were not put to the test",
            )
        )
    return blocks


def _orders(verdicts: Sequence[Verdict], kind: str, anchors: Sequence[str]) -> Block:
    """Claims of one kind; with what the test says of them, where one of them was put to one."""
    rows: list[list[Cell | str]] = []
    tests = any(v.tested for v in verdicts)
    for v in verdicts:
        told: list[Cell | str] = (
            [difference_text(v), n_text(v), _p(v), _smallest(v)] if tests else []
        )
        rows.append([v.what, _measured(v), *told, _verdict(v), v.reason])
    heads = ["difference (95 %)", "n", "p", "seen from"] if tests else []
    return Block(
        ["claim", "measured", *heads, "verdict", "why"],
        rows,
        1,
        heading=f"Claims, as orders: {kind}",
        prose=frozenset({"measured", "difference (95 %)", "n", "verdict", "why"}),
        anchors=anchors,
    )


def tested_text(verdict: Verdict) -> str:
    """What a test says of an order, in words; "" where there was none."""
    if verdict.tested is None:
        return ""
    p = "" if verdict.tested.p is None else f", {p_is(verdict.tested.p)}"
    return f"{difference_text(verdict)}{p}, {n_text(verdict)}"


def difference_text(verdict: Verdict) -> str:
    """The difference that a test found, with its 95 % interval; an en dash where there was none."""
    found, unit = verdict.tested, "%" if verdict.kind == SPEED else "points"
    if found is None:
        return EN_DASH
    text = f"{percent(found.difference)} {unit}"
    if found.difference_low is None:
        return text
    return f"{text} ({percent(found.difference_low)} to {percent(found.difference_high)})"


def n_text(verdict: Verdict) -> str:
    """How many seeds and examples, or steps, a test stands on; an en dash where there was none."""
    found = verdict.tested
    if found is None:
        return EN_DASH
    if found.num_steps is not None:
        return f"{found.num_steps} steps"
    seeds = "1 seed" if found.num_seeds == 1 else f"{found.num_seeds} seeds"
    return f"{seeds}, {decimals(found.num_examples, 0)} examples"


def _p(verdict: Verdict) -> str:
    known = verdict.tested.p if verdict.tested else None
    return EN_DASH if known is None else p_text(known)


def _smallest(verdict: Verdict) -> str:
    return percent(verdict.tested.smallest_difference if verdict.tested else None)


def _notes(verdicts: Sequence[Verdict]) -> list[str]:
    notes = ["verdicts.csv lists every printed number on a line of its own, with its run ids."]
    if any(v.tested for v in verdicts):
        notes.append(
            "Difference: in points of accuracy, or in % of the slower's speed. p: corrected for "
            "the claims of its table. Seen from: the least difference, beyond what the claim asks "
            "for, that four of five such studies would decide at that number of claims."
        )
    return notes


def _data(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a verdict; what a test says of an order is in fractions."""
    names = [each.name for each in fields(Tested)]
    rows = [
        {**v.row(), "kind": v.kind, **{name: getattr(v.tested, name, None) for name in names}}
        for v in verdicts
    ]
    whole = [name for name in names if name.startswith("num_")]
    return pd.DataFrame(rows).astype(dict.fromkeys(whole, "Int64"))


def _numbers(verdicts: Sequence[Verdict], heading: str, anchors: Sequence[str]) -> Block:
    value = "predicted" if verdicts[0].basis == PREDICTED else "measured"
    heads = ["source", "what", "printed", value, "tolerance", "verdict", "reason"]
    rows: list[list[Cell | str]] = [
        [v.source, v.what, v.printed, _measured(v), v.tolerance or "", _verdict(v), v.reason]
        for v in verdicts
    ]
    return Block(heads, rows, 2, heading, frozenset({"verdict", "reason"}), anchors)


def _measured(verdict: Verdict) -> Cell:
    of = tuple(verdict.run_id.split()), tuple(verdict.prediction.split())
    return Cell(verdict.measured or EN_DASH, runs=of[0], predictions=of[1])


def _verdict(verdict: Verdict) -> Cell:
    return Cell(verdict.verdict, bold=verdict.verdict == DIFFERS)


def _collapsed(verdicts: Sequence[Verdict]) -> list[list[Cell | str]]:
    def key(verdict: Verdict) -> tuple[str, str, str]:
        return (verdict.source, verdict.verdict, verdict.reason)

    order = {key(verdict): index for index, verdict in reversed(list(enumerate(verdicts)))}
    together = sorted(verdicts, key=lambda verdict: order[key(verdict)])
    return [[*same, str(len(list(group)))] for same, group in groupby(together, key=key)]
