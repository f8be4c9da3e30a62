"""Reading a results folder: the plan, and the records that may share a table.

This is the gate: a record that is cut or not believed (lomo/record/belief.py), records of another
protocol, of two versions of the same method's code, or of two sets of weights under one model name
stop here and never reach a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from lomo.errors import UserError
from lomo.record.belief import Keep, read_believed
from lomo.record.schema import PROTOCOL_VERSION, Record
from lomo.study.plan import Plan


class Origin(NamedTuple):
    """What a record comes from: runs of one `group` are of one code."""

    run_id: str
    protocol_version: str
    kind: str
    group: tuple[str, ...]  # method, kind, task, engine
    fingerprint: str
    model: str | None
    # A run that failed early names no model, one with random weights no file.
    weights_sha256: str | None


def origin_of(record: Record) -> Origin:
    """What a record says that it comes from."""
    spec = record.spec
    return Origin(
        record.run_id,
        record.protocol_version,
        record.kind,
        tuple(map(str, (spec["method"], record.kind, spec.get("task"), spec.get("engine")))),
        record.provenance.fingerprint,
        record.model.name if record.model else None,
        record.model.weights_sha256 if record.model else None,
    )


def read_records(
    results: Path, plan: Plan, keep: Keep = lambda record, scored: record
) -> dict[str, Any]:
    """What `keep` keeps of the records that exist, by run id: the whole record, if not given.

    Raises UserError for one that may not be used.
    """
    read = read_believed(
        results, plan.runs, lambda record, scored: (origin_of(record), keep(record, scored))
    )
    check_one_origin([origin for origin, _ in read.values()], where=str(results / "runs"))
    return {run_id: kept for run_id, (_, kept) in read.items()}


def check_one_origin(origins: Iterable[Origin], *, where: str) -> None:
    """Raises UserError unless all follow this protocol, each method one code, each model one file
    of weights."""
    weights: dict[str, dict[str, str]] = {}
    codes: dict[tuple[str, ...], dict[str, str]] = {}
    for origin in origins:
        if origin.protocol_version != PROTOCOL_VERSION:
            raise UserError(
                f"run {origin.run_id} follows protocol {origin.protocol_version}",
                where=where,
                allowed=f"protocol {PROTOCOL_VERSION} (a table holds one protocol only)",
                fix="delete that run's folder and run the pipeline again",
            )
        seen = codes.setdefault(origin.group, {})
        seen.setdefault(origin.fingerprint, origin.run_id)
        if len(seen) > 1:
            raise UserError(
                f"the {origin.kind} runs of {origin.group[0]} come from different code: "
                f"{_two(seen)}",
                where=where,
                allowed="one fingerprint for each method, task, engine and kind of run",
                fix="delete the folders of the older runs and run the pipeline again",
            )
        if origin.model is None or origin.weights_sha256 is None:
            continue
        seen = weights.setdefault(origin.model, {})
        seen.setdefault(origin.weights_sha256, origin.run_id)
        if len(seen) > 1:
            raise UserError(
                f"the runs of {origin.model} used different weights: {_two(seen)}",
                where=where,
                allowed="one weights_sha256 for each model",
                fix="delete the folders of the older runs and run the pipeline again",
            )


def _two(runs: dict[str, str]) -> str:
    return " and ".join(f"{run_id} ({digest[:12]})" for digest, run_id in runs.items())
