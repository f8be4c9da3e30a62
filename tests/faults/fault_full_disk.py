"""A disk that fills, while this or that is written: told with the file, and on again with room."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.faults.outcomes import Outcome
from tests.faults.study import LOMO_RUN, RESULTS, TABLES, Place, copy_of, wait_until

AFTER_RUNS = ("tables", "figures", "report", "wandb", ".made", "logs", ".start")
RUN = ("runs/train/mini/lomo", *AFTER_RUNS)
HISTORY = f"{LOMO_RUN}/history.jsonl"
FULL = "No space left on device|(no|make) room"


class Stage(NamedTuple):
    """What is written while the disk fills.

    missing: what does not stand before. begun: what stands when it is about to be written; then
    so many KiB are left, in each try others. num_steps: that are in the history before, too.
    """

    missing: tuple[str, ...]
    begun: str
    left_kib: tuple[int, ...]
    target: str = TABLES
    num_steps: int = 0


STAGES = {
    "pretraining": Stage(
        ("models", "runs", *AFTER_RUNS), f"{RESULTS}/models/mini/.s42.lock", (0, 24, 60)
    ),
    "history": Stage(RUN, f"{LOMO_RUN}/.lock", (0, 0, 4)),
    "checkpoint": Stage(RUN, HISTORY, (40, 100, 160), num_steps=1),
    "record": Stage(RUN, HISTORY, (0, 0, 0), num_steps=47),
    "parquet": Stage(AFTER_RUNS, f"{RESULTS}/logs/collect.log", (0, 16, 32)),
    "table": Stage(AFTER_RUNS, f"{RESULTS}/logs/tables.log", (0, 40, 120)),
    "figure": Stage(
        ("figures", "report", "logs"),
        f"{RESULTS}/logs/figures.log",
        (0, 60, 400),
        target=f"{RESULTS}/figures/overview.svg",
    ),
    "W&B": Stage(
        ("wandb", "logs"),
        f"{RESULTS}/logs/wandb.log",
        (0, 16, 40),
        target=f"{RESULTS}/wandb/published.json",
    ),
}


@pytest.mark.parametrize("name", STAGES)
def test_full_while_it_is_written(
    place: Place, reference: Path, own_mounts: bool, outcome: Outcome, name: str, number: int
) -> None:
    outcome.fault, outcome.where = "disk full", name
    stage = STAGES[name]
    mount(place.results, own_mounts, "16m")
    copy_of(reference, place.folder, *stage.missing)
    process = place.start(stage.target)
    wait_until(lambda: process.poll() is not None or has_begun(place, stage))
    others = place.results / "of-others"
    fill(others, left_kib=stage.left_kib[number % len(stage.left_kib)])
    place.note_finished()
    code = process.wait(timeout=300)
    if code == 0:  # there was room enough, or it could be done without
        outcome.passed(place.said(), FULL)
    else:
        outcome.met(code, place.said(), FULL)
    others.unlink()
    outcome.resume(place, reference, stage.target)


def has_begun(place: Place, stage: Stage) -> bool:
    path = place.folder / stage.begun
    if not (path.exists() and stage.num_steps):
        return path.exists()
    return path.read_text().count('"step_s"') >= stage.num_steps


def test_a_whole_pipeline_on_it(
    place: Place, reference: Path, own_mounts: bool, outcome: Outcome, number: int
) -> None:
    """Snakemake's own files are on it, too."""
    outcome.fault, outcome.where = "disk full", "a whole pipeline"
    mount(place.folder, own_mounts, f"{(300, 600, 900)[number % 3]}k")
    for name in ("config", "study.yaml"):
        source = reference / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, place.folder / name)
    code, output = place.run(TABLES)
    place.note_finished()
    outcome.met(code, output, FULL)
    subprocess.run(["mount", "-o", "remount,size=32m", str(place.folder)], check=True)
    outcome.resume(place, reference, TABLES)


def mount(folder: Path, own_mounts: bool, size: str) -> None:
    """A file system of that size."""
    if not own_mounts:
        pytest.skip("a small file system can't be mounted here (it takes root)")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(folder)]
    subprocess.run(command, check=True)


def fill(others: Path, *, left_kib: int) -> None:
    """Takes all of the disk but so much."""
    free = shutil.disk_usage(others.parent).free
    try:
        others.write_bytes(b"x" * max(0, free - left_kib * 1024))
    except OSError as error:  # the study has taken some of it meanwhile: full it is
        if error.errno != errno.ENOSPC:
            raise
