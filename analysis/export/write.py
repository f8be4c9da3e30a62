"""`python -m lomo_analysis export`: a folder that travels, with a study's results and records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lomo.errors import UserError
from lomo.record.schema import Record
from lomo.record.suite import SuiteRecord
from lomo.system.files import whole, write_text

from ..records.collect import read_records
from ..records.collected import Collected, load
from ..suites.scored import entries
from ..text.render import csv_text
from . import crate, every_eval_ever, hub
from .reported import LeftOut, variants_of
from .suite_logs import write_suite_logs

# What is copied of a results folder beside its records.
COPIED = ("plan.json", "tables/*", "figures/*.svg", "report/*")


def export(results: Path, out: Path) -> list[LeftOut]:
    """Writes the export of a collected study as the new folder `out`; what it leaves out, and why.

    Raises UserError where `out` is there, where no run has a record, and for records that are not
    believed.
    """
    if out.exists():
        raise UserError(
            "is there already, and an export is written into no other folder",
            where=str(out),
            fix="give another name, or delete it",
        )
    collected = load(results)
    records: list[Record | SuiteRecord] = [*read_records(results, collected.plan).values()]
    records += [run.record for entry in entries(collected) for run in entry.runs]
    if not records:
        raise UserError("no run has a record yet", where=str(results / "runs"))
    made_at = datetime.now(UTC)
    variants, left = variants_of(collected)
    of_hub, not_of_hub = hub.entries(collected.plan.study, variants)
    with whole(out) as part:
        part.mkdir(parents=True)
        at = int(made_at.timestamp())
        logs = part / "every_eval_ever"
        left += every_eval_ever.write_logs(collected, variants, at, logs)
        left += write_suite_logs(collected, at, logs)
        hub.write_entries(of_hub, part / "hub")
        left += [*not_of_hub, *_copy(collected, records, part / "study")]
        frame = pd.DataFrame(left, columns=list(LeftOut.__dataclass_fields__))
        write_text(part / "left_out.csv", csv_text(frame))
        write_text(part / "README.md", _readme(collected, records, part))
        crate.write_crate(part, collected.plan, records, made_at)
    return left


def _copy(
    collected: Collected, records: Sequence[Record | SuiteRecord], to: Path
) -> Iterator[LeftOut]:
    """Copies what the values stand on; no file that names a path of this machine."""
    results = collected.folder
    names = [path for pattern in COPIED for path in sorted(results.glob(pattern))]
    names += [collected.run_folder(record.run_id) / "record.json" for record in records]
    local = {json.dumps(path)[1:-1].encode() for path in _local_paths(collected)}
    for path in names:
        name, data = path.relative_to(results).as_posix(), path.read_bytes()
        if any(place in data for place in local):
            yield LeftOut("RO-Crate", name, "it names a folder of the machine that made it")
            continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to / name)


def _local_paths(collected: Collected) -> set[str]:
    """The folders outside of the working folder that a plan's runs read."""
    plan = collected.plan
    named: list[Any] = [plan.source, plan.study.data]
    for spec in [*plan.runs.values(), *plan.suites.values()]:
        named += [spec.model_path, getattr(spec, "data_path", "")]
    return {name for name in named if name.startswith(("/", "~", "../"))}


def _readme(collected: Collected, records: Sequence[Record | SuiteRecord], folder: Path) -> str:
    study = collected.plan.study
    num_logs = len(list(folder.glob("every_eval_ever/**/*.json")))
    num_hub = len(list(folder.glob("hub/*/.eval_results/*.yaml")))
    return "\n".join(
        [
            f"# {study.title}",
            "",
            f"Study `{study.study}`: {len(records)} records. Made by `lomo_analysis export`.",
            "",
            "| where | what |",
            "| --- | --- |",
            f"| `every_eval_ever/` | {num_logs} logs, schema {every_eval_ever.SCHEMA} |",
            f"| `hub/` | {num_hub} files for a model's repository on the Hub |",
            "| `study/` | plan, records, tables, figures and pages as they were made |",
            "| `left_out.csv` | what a format can't hold, and why |",
            f"| `{crate.NAME}` | what each file is, with its sha256 |",
            "",
        ]
    )
