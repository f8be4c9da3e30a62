"""Reading a results folder: the plan, and the records that may share a table.

This is the gate: a cut record, records of another protocol, or of two versions of the same
method's code stop here and never reach a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lomo.errors import UserError
from lomo.plan import Plan
from lomo.record import PROTOCOL_VERSION, Record, read_record


def read_records(results: Path, plan: Plan) -> dict[str, Record]:
    """The records that exist, by run id. Raises UserError for one that may not be used."""
    records = {}
    for run_id in plan.runs:
        path = results / "runs" / run_id / "record.json"
        if path.is_file():
            records[run_id] = read_record(path)
    check_one_origin(records.values(), where=str(results / "runs"))
    return records


def check_one_origin(records: Iterable[Record], *, where: str) -> None:
    """Raises UserError unless all follow this protocol and each method's records one code."""
    origins: dict[tuple[str, ...], dict[str, str]] = {}
    for record in records:
        if record.protocol_version != PROTOCOL_VERSION:
            raise UserError(
                f"run {record.run_id} follows protocol {record.protocol_version}",
                where=where,
                allowed=f"protocol {PROTOCOL_VERSION} (a table holds one protocol only)",
                fix="delete that run's folder and run the pipeline again",
            )
        group = (str(record.spec["method"]), record.kind, str(record.spec.get("task")))
        seen = origins.setdefault(group, {})
        seen.setdefault(record.provenance.fingerprint, record.run_id)
        if len(seen) > 1:
            two = " and ".join(f"{run_id} ({code[:12]})" for code, run_id in seen.items())
            raise UserError(
                f"the {record.kind} runs of {group[0]} come from different code: {two}",
                where=where,
                allowed="one fingerprint for each method, task and kind of run",
                fix="delete the folders of the older runs and run the pipeline again",
            )
