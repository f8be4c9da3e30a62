"""Reading a results folder: the plan, and the records that may share a table.

This is the gate: a record that is cut or not believed (lomo/belief.py), records of another
protocol, of two versions of the same method's code, or of two sets of weights under one model name
stop here and never reach a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lomo.belief import read_believed
from lomo.errors import UserError
from lomo.plan import Plan
from lomo.record import PROTOCOL_VERSION, Record


def read_records(results: Path, plan: Plan) -> dict[str, Record]:
    """The records that exist, by run id. Raises UserError for one that may not be used."""
    records = read_believed(results, plan.runs)
    check_one_origin(records.values(), where=str(results / "runs"))
    return records


def check_one_origin(records: Iterable[Record], *, where: str) -> None:
    """Raises UserError unless all follow this protocol, each method one code, each model one file
    of weights."""
    weights: dict[str, dict[str, str]] = {}
    origins: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        if record.protocol_version != PROTOCOL_VERSION:
            raise UserError(
                f"run {record.run_id} follows protocol {record.protocol_version}",
                where=where,
                allowed=f"protocol {PROTOCOL_VERSION} (a table holds one protocol only)",
                fix="delete that run's folder and run the pipeline again",
            )
        spec = record.spec
        named = (spec["method"], record.kind, spec.get("task"), spec.get("engine"))
        group = tuple(map(str, named))
        seen = origins.setdefault(group, {})
        seen.setdefault(record.provenance.fingerprint, record.run_id)
        if len(seen) > 1:
            raise UserError(
                f"the {record.kind} runs of {group[0]} come from different code: {_two(seen)}",
                where=where,
                allowed="one fingerprint for each method, task, engine and kind of run",
                fix="delete the folders of the older runs and run the pipeline again",
            )
        # A run that failed early names no model, one with random weights no file.
        if record.model is None or record.model.weights_sha256 is None:
            continue
        seen = weights.setdefault(record.model.name, {})
        seen.setdefault(record.model.weights_sha256, record.run_id)
        if len(seen) > 1:
            raise UserError(
                f"the runs of {record.model.name} used different weights: {_two(seen)}",
                where=where,
                allowed="one weights_sha256 for each model",
                fix="delete the folders of the older runs and run the pipeline again",
            )


def _two(runs: dict[str, str]) -> str:
    return " and ".join(f"{run_id} ({digest[:12]})" for digest, run_id in runs.items())
