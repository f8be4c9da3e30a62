"""What a product of the pipeline was made from, told beside it, so that it outlives a copy.

Snakemake keeps that under .snakemake, and by the times of files. The first is lost with its folder,
the second with a copy.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache, cached_property
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


def digest(paths: Iterable[Path]) -> str:
    """One hash of files, those that are missing too."""
    found = hashlib.sha256()
    for path in paths:
        data = path.read_bytes() if path.is_file() else b"missing"
        found.update(hashlib.sha256(data).digest())
    return found.hexdigest()


class Sources:
    """What a study's tables, figures, report and W&B runs come from, beside their code."""

    def __init__(self, results: Path, plan: Plan) -> None:
        self.results, self.plan = results, plan

    def of(self, command: str) -> dict[str, Any]:
        """What the content of a command of `analysis`, or of `wandb`, comes from."""
        if command in ("collect", "wandb"):
            return {"plan": self._planned, "records": self._records}
        index = self.results / "predictions" / "index.json"
        return {
            "plan": self._planned,
            "collected": digest([self.results / "tables" / "records.csv"]),
            "predicted": predicted(self.results / "estimates.json"),
            "predictions": digest([index] if self.plan.study.ablation else []),
            **_published(),
            **_suites(self.results, self.plan),
        }

    @cached_property
    def _planned(self) -> str:
        return hashlib.sha256(self.plan.model_dump_json().encode()).hexdigest()

    @cached_property
    def _records(self) -> str:
        return digest(record_files(self.results, (*self.plan.runs, *self.plan.suites)))


def record_files(results: Path, run_ids: Iterable[str]) -> Iterator[Path]:
    """The records' files, in the order of `run_ids`."""
    return (results.joinpath("runs", run_id, "record.json") for run_id in run_ids)


def _suites(results: Path, plan: Plan) -> dict[str, Any]:
    """A hash of the suites' records: no other table holds them."""
    if not plan.suites:
        return {}
    return {"suites": digest(record_files(results, plan.suites))}


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


def predicted(estimates: Path) -> str | None:
    """A hash of the peaks that were predicted: seconds are told anew at each start."""
    runs = read(estimates).get("runs")
    if not isinstance(runs, dict):
        return None
    peaks = {run_id: run.get("peak_bytes") for run_id, run in runs.items()}
    return hashlib.sha256(json.dumps(peaks, sort_keys=True).encode()).hexdigest()
