"""RO-Crate 1.2: `ro-crate-metadata.json`, which says of each file of an export what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lomo.record.schema import Record
from lomo.record.suite import SuiteRecord
from lomo.study.plan import Plan
from lomo.system.files import write_text

NAME = "ro-crate-metadata.json"
CONTEXT = "https://w3id.org/ro/crate/1.2/context"
VERSION = "https://w3id.org/ro/crate/1.2"
LICENSE = "#licence"
LOMO_PAPER = "https://doi.org/10.18653/v1/2024.acl-long.445"
MEDIA = {
    ".csv": "text/csv",
    ".html": "text/html",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".svg": "image/svg+xml",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}
# What a file is, by how its name begins, of several the first.
KINDS = (
    ("every_eval_ever/", "accuracies of one model and method, as Every Eval Ever has them"),
    ("hub/", "accuracies of one model and method, as a repository of the Hub has them"),
    ("study/runs/", "the record of one run: what it was told, did and measured"),
    ("study/tables/", "a table, made from the records alone"),
    ("study/figures/", "a figure, made from the records alone"),
    ("study/report/", "a page of the study, made from tables, figures and verdicts"),
    ("study/plan.json", "the plan: each run of the study with its settings"),
    ("left_out.csv", "what these formats can't hold, and why"),
    ("README.md", "what lies here"),
)


def write_crate(
    folder: Path, plan: Plan, records: Sequence[Record | SuiteRecord], made_at: datetime
) -> None:
    """Writes the description of all files in `folder` into it. records: those of the runs."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    entities = [_file(path, folder) for path in files]
    names = [entity["@id"] for entity in entities]
    graph = [
        {
            "@id": NAME,
            "@type": "CreativeWork",
            "about": _to("./"),
            "conformsTo": _to(VERSION),
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": plan.study.title,
            "description": f"Study {plan.study.study}: the records of {len(records)} runs, the "
            "tables and figures made from them, and their accuracies in the formats of others.",
            "datePublished": made_at.date().isoformat(),
            "license": _to(LICENSE),
            "hasPart": [_to(name) for name in names],
            "mentions": _to("#study"),
            "citation": _to(LOMO_PAPER),
        },
        *entities,
        *_action(plan, records, names),
        *_context(),
    ]
    text = json.dumps({"@context": CONTEXT, "@graph": graph}, indent=1) + "\n"
    write_text(folder / NAME, text)


def _to(name: str) -> dict[str, str]:
    return {"@id": name}


def _file(path: Path, folder: Path) -> dict[str, Any]:
    data, name = path.read_bytes(), path.relative_to(folder).as_posix()
    kind = next((words for start, words in KINDS if name.startswith(start)), "")
    return {
        "@id": name,
        "@type": "File",
        "name": name,
        "description": kind,
        "encodingFormat": MEDIA.get(path.suffix, "application/octet-stream"),
        "contentSize": str(len(data)),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _action(
    plan: Plan, records: Sequence[Record | SuiteRecord], names: Sequence[str]
) -> list[dict[str, Any]]:
    """The study as one process: what took part, from when to when, and what came of it."""
    began = [datetime.fromisoformat(record.provenance.started_at) for record in records]
    ended = [
        start + timedelta(seconds=record.clock.wall_s)
        for start, record in zip(began, records, strict=True)
    ]
    origins = [record.provenance for record in records]
    commits = sorted({str(origin.git_commit or "unknown") for origin in origins})
    packages = sorted({item for origin in origins for item in origin.packages.items()})
    programs: list[dict[str, Any]] = [
        {
            "@id": f"#package-{name}-{version}",
            "@type": "SoftwareApplication",
            "name": name,
            "version": version,
            "url": f"https://pypi.org/project/{name}/",
        }
        for name, version in packages
    ]
    harness: dict[str, Any] = {
        "@id": "#lomo-repro",
        "@type": "SoftwareApplication",
        "name": "lomo-repro",
        "description": "the harness that made the runs, by its git commit",
        "version": ", ".join(commits),
        "softwareRequirements": [_to(program["@id"]) for program in programs],
        "url": LOMO_PAPER,
    }
    planned = "study/plan.json"
    results = [name for name in names if name.startswith("study/") and name != planned]
    action = {
        "@id": "#study",
        "@type": "CreateAction",
        "name": f"the runs of study {plan.study.study}",
        "description": f"{len(records)} runs with a record, of "
        f"{len(plan.runs) + len(plan.suites)} planned",
        "instrument": _to(harness["@id"]),
        **({"object": _to(planned)} if planned in names else {}),
        "result": [_to(name) for name in results],
        "startTime": min(began).astimezone(UTC).isoformat(),
        "endTime": max(ended).astimezone(UTC).isoformat(),
    }
    return [action, harness, *programs]


def _context() -> list[dict[str, Any]]:
    """What is named and lies elsewhere."""
    return [
        {
            "@id": LICENSE,
            "@type": "CreativeWork",
            "name": "no licence is given",
            "description": "Whoever sends this names one. Texts of SuperGLUE have their own.",
        },
        {
            "@id": LOMO_PAPER,
            "@type": "ScholarlyArticle",
            "name": "Full Parameter Fine-tuning for Large Language Models with Limited Resources",
        },
    ]
