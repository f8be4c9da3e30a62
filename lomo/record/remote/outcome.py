"""What a study came to, as W&B artifacts: one offline run that holds its tables, figures, records.

What is sent is a copy below `dashboard/`, without the places of this machine. W&B tells the path
of each file of an artifact, so they are added, and sent, from the study's own folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from lomo.record.made import digest, files_in, read
from lomo.record.remote.naming import LONGEST, wandb_id, without_places
from lomo.record.tracking import UNTOLD, nothing_sent
from lomo.study.plan import Plan
from lomo.system.files import read_json, read_text, whole, write_bytes, write_text

KINDS = ("tables", "figures", "records")
ARTIFACTS = Path("dashboard", "artifacts")  # below a study's folder


def write_outcome(results: Path, plan: Plan, entity: str, project: str) -> Path | None:
    """Writes the offline run with the artifacts, where they changed; gives its folder.

    It is for one project of one entity.
    None where the study has no table yet. Raises UserError where the disk is full.
    """
    if not any((results / "tables").glob("*.csv")):
        return None
    staged = results / ARTIFACTS
    with whole(staged) as new:
        for name, data in _told(results, plan):
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(new / name, data)
    names = "\n".join(path.relative_to(staged).as_posix() for path in files_in(staged))
    content = hashlib.sha256(f"{names}\n{digest(files_in(staged))}".encode()).hexdigest()
    identity, mark = wandb_id(plan.study.study, "outcome", content), staged.parent / "outcome.json"
    there = _of(results, identity)
    # W&B keeps with an artifact whose project it is for.
    told = {"id": identity, "entity": entity, "project": project}
    if len(there) == 1 and read(mark) == told:
        return there[0]
    for old in (staged.parent / "wandb").glob("offline-run-*"):  # of tables that are no more
        shutil.rmtree(old, ignore_errors=True)
    _write(results, plan.study.study, told)
    write_text(mark, json.dumps(told) + "\n")
    return _of(results, identity)[0]


def _of(results: Path, identity: str) -> list[Path]:
    return list((results / "dashboard" / "wandb").glob(f"offline-run-*-{identity}"))


def _told(results: Path, plan: Plan) -> Iterator[tuple[str, bytes]]:
    """The files of the artifacts, (name, content): no page, since those link into a checkout."""
    for path in _files(results / "tables", "csv", "md", "tex"):
        kind = "records" if path.stem == "records" else "tables"
        yield f"{kind}/{path.name}", _text(path).encode()
    for path in _files(results / "figures", "svg", "pdf", "png"):
        yield f"figures/{path.name}", path.read_bytes()
    outcomes = results / "tables" / "outcomes.parquet"  # ids and what each run gets right, no text
    if outcomes.is_file():
        yield f"records/{outcomes.name}", outcomes.read_bytes()
    fix = "run the pipeline again: it makes it anew"
    run_ids = sorted([*plan.runs, *plan.suites])
    for name in ["plan.json", *(f"runs/{run_id}/record.json" for run_id in run_ids)]:
        if (results / name).is_file():
            told = without_places(read_json(results / name, fix=fix))
            yield f"records/{name}", (json.dumps(told, indent=1) + "\n").encode()


def _files(folder: Path, *suffixes: str) -> list[Path]:
    return sorted(path for suffix in suffixes for path in folder.glob(f"*.{suffix}"))


def _text(path: Path) -> str:
    """A table's text; where LaTeX may break a path, it is found all the same."""
    text = read_text(path)
    plain = text.replace("/\\allowbreak{}", "/")
    told: str = without_places(plain)
    return text if told == plain else told


def _write(results: Path, study: str, told: dict[str, str]) -> None:
    folder = (results / "dashboard").resolve()
    with nothing_sent(folder), contextlib.chdir(results):
        import wandb

        run = wandb.init(
            id=told["id"],
            entity=told["entity"],
            project=told["project"],
            mode="offline",
            name="outcome",
            group=study[:LONGEST],
            job_type="outcome",
            dir=folder,
            settings=wandb.Settings(**UNTOLD),
        )
        for kind in KINDS:
            if (ARTIFACTS / kind).is_dir():
                artifact = wandb.Artifact(wandb_id(study, kind), type=kind)
                # Not copied: the copy would lie in a home that is W&B's own, and gone.
                artifact.add_dir(str(ARTIFACTS / kind), policy="immutable", skip_cache=True)
                run.log_artifact(artifact)
        run.finish()
