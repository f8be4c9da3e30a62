"""All runs of a study, as its page lists them: of ten thousand a quarter of a megabyte."""

from __future__ import annotations

import os
from typing import Any

from ..records.collected import Collected
from ..text.render import json_in_page
from ..text.units import GIB, decimals


def run_list(collected: Collected) -> dict[str, Any]:
    """What the section needs: `data`, JSON for the page's script, and `statuses`, their names.

    data: a list a column, an entry a run in the plan's order. An id is told as `shared`, how many
    characters it has in common with the one before it, and `rest`.
    """
    ids = collected.runs["run_id"].tolist()
    shared = [0, *(len(os.path.commonprefix(pair)) for pair in zip(ids, ids[1:], strict=False))]
    names = list(dict.fromkeys(collected.runs["status"].tolist()))
    frame = collected.runs[["test_accuracy", "test_perplexity", "peak_bytes", "clock_wall_s"]]
    rows = frame.astype(object).where(frame.notna(), None).itertuples(index=False)
    results, seconds = [], []
    for row in rows:
        results.append(_result(row))
        seconds.append(None if row.clock_wall_s is None else round(row.clock_wall_s, 1))
    data = {
        "shared": shared[: len(ids)],
        "rest": [run_id[number:] for run_id, number in zip(ids, shared, strict=False)],
        "statuses": names,
        "status": [names.index(status) for status in collected.runs["status"]],
        "result": results,
        "seconds": seconds,
    }
    return {"data": json_in_page(data), "statuses": names}


def _result(row: Any) -> str:
    """What a run was for, in a word: its score, or the peak that was measured."""
    if row.test_accuracy is not None:
        return f"{decimals(100 * row.test_accuracy, 1)} %"
    if row.test_perplexity is not None:
        return f"perplexity {decimals(row.test_perplexity, 2)}"
    if row.peak_bytes is not None:
        return f"{decimals(GIB.of(row.peak_bytes), 3)} GiB"
    return ""
