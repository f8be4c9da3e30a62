"""The share of an intended step that 16-bit weights took, from what a history says of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from lomo.record.schema import Applied, AppliedShare

EVENT = "applied"
NOTHING_ASKED = "no watched element was to move"
# Group -> what names one of its parameters, over the families of today; the first that fits.
GROUPS = {
    "norms": r"norm|\bln_|layer_?norm",
    "head": r"\blm_head\b|\bembed_out\b",
    "embeddings": r"embed|\bwte\b|\bwpe\b",
    "attention": r"attn|attention",
    "mlp": r"mlp|feed_forward|\bfc\d?\b|experts",
}
OTHER = "other"
APPLIED_GROUPS = (*GROUPS, OTHER)
# What a history's event holds of each group, summed over the watched elements of a step.
SUMMED = ("applied_intended", "intended_squares", "num_asked", "num_moved")


def group_of(name: str) -> str:
    """The group of a parameter by its name: one of GROUPS, or `other`."""
    return next((group for group, words in GROUPS.items() if re.search(words, name)), OTHER)


def applied_in(events: Iterable[Mapping[str, Any]]) -> Applied | None:
    """The block of a record whose history has these events; None where no step was watched.

    docs/measurement.md defines each number.
    """
    watched = [event for event in events if event["event"] == EVENT]
    if not watched:
        return None
    names = dict.fromkeys(name for event in watched for name in event["groups"])
    groups = {
        name: _summed([event["groups"][name] for event in watched if name in event["groups"]])
        for name in names
    }
    # Of a group only some elements are watched: each stands for as many as it was drawn from.
    weights = {name: g["num_parameters"] / g["num_watched"] for name, g in groups.items()}
    whole = [
        math.fsum(weights[name] * group[key] for name, group in groups.items())
        for key in ("applied_intended", "intended_squares")
    ]
    share = _ratio(*whole)
    return Applied(
        intended=watched[0]["intended"],
        num_steps=len(watched),
        share=share,
        groups={name: _share_of(group) for name, group in groups.items()},
        missing={} if share is not None else {"share": NOTHING_ASKED},
    )


def _summed(of_steps: list[Mapping[str, Any]]) -> dict[str, Any]:
    sizes = {key: of_steps[0][key] for key in ("num_parameters", "num_watched")}
    return sizes | {key: math.fsum(step[key] for step in of_steps) for key in SUMMED}


def _share_of(group: Mapping[str, Any]) -> AppliedShare:
    share = _ratio(group["applied_intended"], group["intended_squares"])
    moved = _ratio(group["num_moved"], group["num_asked"])
    null = [name for name, value in (("share", share), ("moved", moved)) if value is None]
    return AppliedShare(
        share=share,
        moved=moved,
        num_asked=int(group["num_asked"]),
        num_watched=group["num_watched"],
        num_parameters=group["num_parameters"],
        missing=dict.fromkeys(null, NOTHING_ASKED),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
