"""What a product of the pipeline was made from, told beside it, so that it outlives a copy.

Snakemake keeps that under .snakemake, and by the times of files. The first is lost with its folder,
the second with a copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic_core import from_json

from lomo.record.provenance import fingerprint
from lomo.study.plan import Plan
from lomo.system.files import write_text

# What was measured or predicted, and committed; in a checkout alone.
PUBLISHED = Path(__file__).parents[2] / "results" / "published"
NAME = ".made.json"  # of a folder of data or weights
# What is told in a folder of weights that were not made here.
ORIGINS = ("imported.json", "fetched.json", "saved.json")


class Made(NamedTuple):
    """When something was made, and a hash of what it is; "" where that is not told."""

    at: datetime
    content: str


def note(path: Path, content: str = "", **facts: Any) -> None:
    """Writes what something was made from, when, and a hash of it, to the file `path`."""
    told = {**facts, "content": content, "made_at": datetime.now(UTC).isoformat()}
    write_text(path, json.dumps(told, indent=1) + "\n")


def made_from(path: Path, **facts: Any) -> Made | None:
    """What `path` tells of something made from just these facts; None if of others, or nothing."""
    told = read(path)
    try:
        found = Made(datetime.fromisoformat(told.pop("made_at")), str(told.pop("content")))
    except (KeyError, TypeError, ValueError):
        return None
    return found if told == json.loads(json.dumps(facts)) else None


def note_folder(folder: Path, **facts: Any) -> None:
    """Notes in a folder of data or weights what its files were made from."""
    note(folder / NAME, content=digest(files_in(folder)), **facts)


def files_in(folder: Path) -> list[Path]:
    """The files below a folder, without the note about them."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME]


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file; {} where there is none."""
    try:
        data = from_json(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def origin_of(folder: Path, weights_sha256: str | None) -> dict[str, Any]:
    """What a model's folder tells of where these weights are from; {} where it tells nothing."""
    told = (read(folder / name) for name in ORIGINS)
    ours = [note for note in told if note.pop("weights_sha256", None) == weights_sha256 and note]
    return {name: value for note in ours for name, value in note.items()}


def names_in(index: Path) -> list[str]:
    """The names in a JSON list; [] where there is none."""
    try:
        data = from_json(index.read_bytes())
    except (OSError, ValueError):
        return []
    return [str(name) for name in data] if isinstance(data, list) else []


def page(results: Path, command: str) -> Path:
    """Where a study keeps what its tables, figures and report were made from."""
    return results / ".made" / f"{command}.json"


def digest(paths: Iterable[Path], hashes: dict[Path, bytes] | None = None) -> str:
    """One hash of files, those that are missing too. `hashes` keeps each file's own for a later
    call, which then does not read it."""
    found, hashes = hashlib.sha256(), {} if hashes is None else hashes
    for path in paths:
        if path not in hashes:
            data = path.read_bytes() if path.is_file() else b"missing"
            hashes[path] = hashlib.sha256(data).digest()
        found.update(hashes[path])
    return found.hexdigest()


def sources_of(
    command: str, results: Path, plan: Plan, hashes: dict[Path, bytes] | None = None
) -> dict[str, Any]:
    """What the content of a command of `analysis`, or of `wandb`, comes from beside its code."""
    if command in ("collect", "wandb"):
        runs = (*plan.runs, *plan.suites)
        records = (results / "runs" / run_id / "record.json" for run_id in runs)
        return {"plan": plan_digest(plan), "records": digest(records, hashes)}
    return {
        "plan": plan_digest(plan),
        "collected": digest([results / "tables" / "records.csv"]),
        "predicted": predicted(results / "estimates.json"),
        "predictions": digest(
            [results / "predictions" / "index.json"] if plan.study.ablation else []
        ),
        **_published(),
        **_suites(results, plan),
    }


def _suites(results: Path, plan: Plan) -> dict[str, Any]:
    """A hash of the suites' records: no other table holds them."""
    if not plan.suites:
        return {}
    records = (results / "runs" / run_id / "record.json" for run_id in plan.suites)
    return {"suites": digest(records)}


@cache
def _published() -> dict[str, Any]:
    """Hashes of the published predictions, and of the code that would make them now."""
    files = [
        file for index in sorted(PUBLISHED.glob("*/index.json")) for file in files_in(index.parent)
    ]
    specs = [told["spec"] for told in map(read, files) if "spec" in told]
    made_by = sorted({(spec["method"], spec["engine"]) for spec in specs})
    now = [fingerprint("predict", method, engine=engine) for method, engine in made_by]
    fits = PUBLISHED / "what-fits" / "what_fits.json"
    return {"published": digest([*files, fits]), "predicting": now}


def plan_digest(plan: Plan) -> str:
    """A hash of all that a plan says."""
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()


def predicted(estimates: Path) -> str | None:
    """A hash of the peaks that were predicted: seconds are told anew at each start."""
    runs = read(estimates).get("runs")
    if not isinstance(runs, dict):
        return None
    peaks = {run_id: run.get("peak_bytes") for run_id, run in runs.items()}
    return hashlib.sha256(json.dumps(peaks, sort_keys=True).encode()).hexdigest()
