"""Verdicts: every printed number of the paper beside the measured one, and its claims as orders.

A verdict is reproduced, differs, undecided, not comparable or not run, always with the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

import pandas as pd

from .collected import Collected
from .render import Block, Cell, Table
from .units import EN_DASH
from .verdict import DIFFERS, REPRODUCED, UNDECIDED, VERDICTS, Verdict
from .verdict_numbers import number_verdicts
from .verdict_orders import order_verdicts


def all_verdicts(collected: Collected) -> list[Verdict]:
    """The claims as orders first, then the numbers, in the paper's order."""
    return [*order_verdicts(collected), *number_verdicts(collected)]


def table_verdicts(collected: Collected) -> Table:
    """The verdicts of a study; numbers that share a verdict and reason stand in one line."""
    verdicts = all_verdicts(collected)
    counts = Counter(verdict.verdict for verdict in verdicts)
    shown = ", ".join(f"{counts[name]} {name}" for name in VERDICTS)
    return Table(
        name="verdicts",
        title="Verdicts",
        caption=(
            f"The paper's claims and printed numbers against this study: {shown}. "
            "Claims about which is larger can be tested on any model; numbers only where model, "
            "data and setting are the paper's. Undecided: within the error of what was measured, "
            "which is no evidence for the claim, nor against it."
        ),
        blocks=_blocks(verdicts),
        notes=["verdicts.csv lists every printed number on a line of its own, with its run ids."],
        data=pd.DataFrame([asdict(verdict) for verdict in verdicts]),
    )


def _blocks(verdicts: Sequence[Verdict]) -> list[Block]:
    orders = [verdict for verdict in verdicts if verdict.order]
    numbers = [verdict for verdict in verdicts if not verdict.order]
    tested = (REPRODUCED, DIFFERS, UNDECIDED)
    judged = [v for v in numbers if v.verdict in tested]
    heads = ["source", "what", "printed", "measured", "tolerance", "verdict", "reason"]
    blocks = [
        Block(
            ["claim", "measured", "verdict", "why"],
            [[v.what, v.measured or EN_DASH, _verdict(v), v.reason] for v in orders],
            1,
            heading="Claims, as orders",
            prose=frozenset({"measured", "verdict", "why"}),
        )
    ]
    if judged:
        rows: list[list[Cell | str]] = []
        for v in judged:
            values = (v.printed, v.measured or EN_DASH, v.tolerance or "")
            rows.append([v.source, v.what, *values, _verdict(v), v.reason])
        prose = frozenset({"verdict", "reason"})
        blocks.append(Block(heads, rows, 2, heading="Printed numbers", prose=prose))
    rest = [v for v in numbers if v.verdict not in tested]
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


def _verdict(verdict: Verdict) -> Cell:
    return Cell(verdict.verdict, bold=verdict.verdict == DIFFERS)


def _collapsed(verdicts: Sequence[Verdict]) -> list[list[Cell | str]]:
    def key(verdict: Verdict) -> tuple[str, str, str]:
        return (verdict.source, verdict.verdict, verdict.reason)

    order = {key(verdict): index for index, verdict in reversed(list(enumerate(verdicts)))}
    together = sorted(verdicts, key=lambda verdict: order[key(verdict)])
    return [[*same, str(len(list(group)))] for same, group in groupby(together, key=key)]
