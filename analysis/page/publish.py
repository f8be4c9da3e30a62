"""Publish: the plan, the records and what bears them out, copied to be committed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lomo.errors import UserError
from lomo.record.evidence import SAMPLES, claims_of_files
from lomo.record.remote.naming import without_places
from lomo.record.schema import PROTOCOL_VERSION, Record
from lomo.study.plan import Plan, read_plan
from lomo.system.files import read_json, whole, write_text

from ..records.collect import read_records
from ..text.names import listed, status_text


def publish(results: Path, to: Path) -> None:
    """Copies what the tables and figures of `results` are made of into `to`, with a README.

    Records that do not exist are left out and counted. Beside each record goes what it is believed
    by: samples, history, timeline. Of a path outside of the working folder the last name is kept
    alone, in plan and records alike. Raises UserError where `to` is there, where no run has a
    record, and for records that may not share a table.
    """
    if to.exists():
        raise UserError(
            "is there already, and what is published is never changed",
            where=str(to),
            fix="give another name, --to results/published/NAME",
        )
    plan = read_plan(results)
    records = read_records(results, plan)
    if not records:
        raise UserError("no run has a record yet", where=str(results / "runs"))
    with whole(to) as part:
        for run_id, record in records.items():
            _copy(results, part, f"runs/{run_id}/record.json")
            for name in claims_of_files(record, plan.runs[run_id]):
                _copy(results, part, f"runs/{run_id}/{name}")
        for run_id in plan.suites:
            for name in ("record.json", SAMPLES):
                if (results / "runs" / run_id / name).is_file():
                    _copy(results, part, f"runs/{run_id}/{name}")
        _copy(results, part, "plan.json")
        if (results / "estimates.json").is_file():  # what was predicted, for the table beside it
            _copy(results, part, "estimates.json")
        write_text(part / "README.md", _readme(plan, records, to))


def _copy(results: Path, to: Path, name: str) -> None:
    (to / name).parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".json"):
        given = read_json(results / name, fix="run the pipeline again")
        told = without_places(given)
        if told != given:
            write_text(to / name, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
            return
    shutil.copyfile(results / name, to / name)


def _readme(plan: Plan, records: dict[str, Record], to: Path) -> str:
    values = list(records.values())
    statuses = Counter(record.status for record in values)
    counts = [f"{num} {status_text(status)}" for status, num in statuses.items()]
    if len(values) < len(plan.runs):
        counts.append(f"{len(plan.runs) - len(values)} without a record")
    devices = [record.provenance.device for record in values]
    settings = (r.memory.cuda.allocator_settings for r in values if r.memory and r.memory.cuda)
    started = sorted(record.provenance.started_at[:10] for record in values)
    facts = {
        "study": f"`{plan.study.study}` ({plan.source})",
        "runs": f"{len(plan.runs)} planned: {listed(counts)}",
        "device": _distinct(device.name for device in devices),
        "devices a run": _distinct(str(device.num_devices) for device in devices),
        "driver": _distinct(device.driver or "none" for device in devices),
        "allocator": _distinct(settings) or "none",
        "other processes": _distinct(
            tenant for device in devices for tenant in device.co_tenants or []
        )
        or "none seen",
        "python": _distinct(record.provenance.python for record in values),
        "torch": _distinct(record.provenance.packages["torch"] for record in values),
        "transformers": _distinct(record.provenance.packages["transformers"] for record in values),
        "commit": _distinct(map(_commit, values)),
        "measured": f"{started[0]} to {started[-1]}",
        "protocol": f"{PROTOCOL_VERSION} (docs/measurement.md)",
    }
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    made = f"python -m lomo_analysis all --results {to.as_posix()}"
    return "\n".join(
        [
            f"# {plan.study.title}",
            "",
            "Copied by `python -m lomo_analysis publish`; never edited. Of a folder elsewhere on "
            "the machine that made it the name alone is told.",
            "",
            "| | |",
            "| --- | --- |",
            *lines,
            "",
            f"Tables and figures: `{made}`.",
            "",
        ]
    )


def _commit(record: Record) -> str:
    origin = record.provenance
    if origin.git_commit is None:
        return "unknown"
    return f"{origin.git_commit}{' with uncommitted changes' if origin.git_dirty else ''}"


def _distinct(values: Iterable[str]) -> str:
    return listed(dict.fromkeys(values))
