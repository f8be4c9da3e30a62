"""Verdicts: every printed number of the paper beside the measured one, and its claims as orders.

A verdict is reproduced, differs, undecided, not comparable or not run, always with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby

import pandas as pd

from ..records.collected import Collected
from ..text.grid import Block, Cell, Table
from ..text.names import listed
from ..text.units import EN_DASH
from .numbers import number_verdicts
from .orders import order_verdicts
from .verdict import DIFFERS, MEASURED, MEASURED_ON, NEVER_RUN, PREDICTED, TESTED, VERDICTS, Verdict


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
            f"The paper's claims and printed numbers against this study: {counted(verdicts)}. "
            "Claims about which is larger can be tested on any model; numbers only where model, "
            "data and setting are the paper's, or where they were predicted for them. Undecided: "
            "within the error of what was measured, which is no evidence for the claim, nor "
            "against it."
        ),
        blocks=_blocks(verdicts),
        notes=["verdicts.csv lists every printed number on a line of its own, with its run ids."],
        data=pd.DataFrame([asdict(verdict) for verdict in verdicts]),
    )


def counted(verdicts: Sequence[Verdict]) -> str:
    """How many verdicts of each name, and how many of those are of predictions."""
    texts = []
    for name in VERDICTS:
        of = [verdict for verdict in verdicts if verdict.verdict == name]
        predicted = sum(verdict.basis == PREDICTED for verdict in of)
        texts.append(f"{len(of)} {name}" + (f" ({predicted} predicted)" if predicted else ""))
    return ", ".join(texts)


def anchor(verdicts: Sequence[Verdict], verdict: Verdict) -> str:
    """The id of a verdict's row in a page."""
    return f"verdict-{verdicts.index(verdict) + 1}"


def _blocks(verdicts: Sequence[Verdict]) -> list[Block]:
    orders = [verdict for verdict in verdicts if verdict.order]
    numbers = [verdict for verdict in verdicts if not verdict.order]
    judged = [v for v in numbers if v.verdict in TESTED]
    blocks = [
        Block(
            ["claim", "measured", "verdict", "why"],
            [[v.what, _measured(v), _verdict(v), v.reason] for v in orders],
            1,
            heading="Claims, as orders",
            prose=frozenset({"measured", "verdict", "why"}),
            anchors=[anchor(verdicts, v) for v in orders],
        )
    ]
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
