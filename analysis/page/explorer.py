"""What fits, as a page asks it: the published answers in a few bytes, for a small script."""

from __future__ import annotations

from typing import Any

from lomo.memory.asked.fits import fingerprint_of_fits, trained_methods
from lomo.model.registry import registry

from ..paper.fits import FILE, WhatFits, read_fits
from ..text import render
from ..text.names import method_title
from ..text.units import GIB

FOLDER = "what-fits"
# Tokens a sequence that can be chosen, over those of the published answers.
LENGTHS = (0.25, 0.5, 1, 2, 4, 8)


def explorer() -> dict[str, Any] | None:
    """What the section needs: `data`, `note`, `found`, `lengths`; None where nothing is published.

    data: JSON of the axes, and for each cell in their order the largest batch and the GiB: of the
    peak where one sequence fits, else what is missing.
    """
    folder = render.PUBLISHED / FOLDER
    if not (folder / FILE).is_file():
        return None
    found = read_fits(folder)
    cells = []
    for model in found.models:
        for method in found.methods:
            for count in found.counts:
                for gib in found.gpus_gib:
                    cells += _cell(found, (model, method, count, gib))
    data = {
        "models": list(found.models),
        "methods": [[method, method_title(method)] for method in found.methods],
        "counts": found.counts,
        "cards": found.gpus_gib,
        "tokens": found.sequence_length,
        "longest": [_longest(name) for name in found.models],
        "cells": cells,
    }
    text = render.json_in_page(data)
    lengths = [round(found.sequence_length * share) for share in LENGTHS]
    return {"data": text, "note": _note(found), "found": found, "lengths": lengths}


def _longest(model: str) -> int | None:
    """The most tokens of a sequence; None where a folder's own registry lacks the model."""
    entry = registry().get(model)
    return None if entry is None else entry.num_positions


def _cell(found: WhatFits, key: tuple[str, str, int, float]) -> list[float | int | None]:
    fit = found.cells[key]
    if fit.refused:
        return [0, None]
    size = fit.peak_bytes if fit.batch_size else fit.missing_bytes
    return [fit.batch_size, None if size is None else round(GIB.of(size), 1)]


def _note(found: WhatFits) -> str:
    """What the answers are of, and whether today's code would give them."""
    made_by = found.facts.get("provenance", {}).get("fingerprint")
    text = (
        f"Predicted, not run: {found.facts['dtype']}, {found.facts['attention']}, checkpointed; "
        f"one process on one card, FSDP2 on more; {found.reserve_gib:g} GiB of each card is kept "
        "for what a prediction does not see."
    )
    if made_by != fingerprint_of_fits(trained_methods()):
        text += (
            " Made by other code than that of this checkout; make it again: snakemake --cores all "
            "fits."
        )
    return text
