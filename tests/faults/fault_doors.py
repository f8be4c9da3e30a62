"""Doors that are closed: read-only disks, files of others, links, a checkout of somebody else's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.outcomes import Outcome
from tests.faults.study import ROOT, TABLES, Place, copy_of

# One for each worker of pytest: a limit of processes counts all of a user's.
ORDINARY = 65534 - int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
ANOTHER = 12345
AS_ORDINARY = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups"]
CLOSED = "Write-protected|Read-only file system|Permission denied|not permitted"


def as_ordinary(place: Place) -> None:
    """From now on the pipeline is an ordinary user's, who has no home folder.

    Snakemake has to be told then where its cache may lie.
    """
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv")
    place.before = AS_ORDINARY
    place.environment |= {"HOME": "/nonexistent", "USER": "nobody", "LOGNAME": "nobody"}
    place.environment["XDG_CACHE_HOME"] = str(place.folder / "cache")
    own(place.folder, ORDINARY)


def own(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def read_only(source: Path, at: Path) -> None:
    """The folder at `source` is seen at `at`, and nobody writes there."""
    at.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", source, at], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", at], check=True)


@pytest.mark.parametrize("what", [".", "results/mini", "results/mini/tables"])
def test_read_only(
    place: Place, reference: Path, own_mounts: bool, outcome: Outcome, what: str, number: int
) -> None:
    outcome.fault, outcome.where = "read-only", "working folder" if what == "." else what
    if not own_mounts:
        pytest.skip("a read-only disk can't be mounted here (it takes root)")
    copy_of(reference, place.folder, "tables/*" if number else "tables/records.csv", "figures/*")
    (place.results / "tables").mkdir(exist_ok=True)
    at = place.folder / what
    read_only(at, at)
    place.note_finished()
    outcome.met(*place.run(TABLES), CLOSED)
    subprocess.run(["umount", "--lazy", at], check=True)
    outcome.resume(place, reference, TABLES)


@pytest.mark.parametrize("what", ["", "tables", "logs", "runs/train/mini/lomo", "../../.snakemake"])
def test_files_of_somebody_else(
    place: Place, reference: Path, open_python: None, outcome: Outcome, what: str, number: int
) -> None:
    outcome.fault, outcome.where = "another's files", what.strip("./") or "results/mini"
    without = ("runs/train/mini/lomo/*/*/*/record.json",) if "runs" in what else ()
    copy_of(reference, place.folder, *without, "tables/verdicts*", "tables/records*")
    as_ordinary(place)
    own(place.results / what, ANOTHER)
    place.note_finished()
    outcome.met(*place.run(TABLES), CLOSED)
    own(place.results / what, ORDINARY)
    outcome.resume(place, reference, TABLES)


def test_an_ordinary_user(
    place: Place, reference: Path, open_python: None, outcome: Outcome, number: int
) -> None:
    outcome.fault, outcome.where = "an ordinary user", "no home, a checkout of root's"
    as_ordinary(place)
    outcome.passed_by(place, reference, TABLES)


def test_a_read_only_checkout(
    place: Place, reference: Path, own_mounts: bool, outcome: Outcome, number: int
) -> None:
    """Its results lie elsewhere; pages name published records by another way there."""
    outcome.fault, outcome.where = "a read-only checkout", "results elsewhere"
    if not own_mounts:
        pytest.skip("a read-only disk can't be mounted here (it takes root)")
    read_only(ROOT, ROOT)
    try:
        copy_of(reference, place.folder, "runs/train/mini/lomo", "tables/*")
        outcome.passed_by(place, reference, TABLES)
    finally:
        subprocess.run(["umount", "--lazy", ROOT], check=True)


def test_results_is_a_link(place: Place, reference: Path, outcome: Outcome, number: int) -> None:
    outcome.fault, outcome.where = "results is a link", "to a folder elsewhere"
    copy_of(reference, place.folder, "tables/*")
    elsewhere = place.folder / "elsewhere"
    (place.folder / "results").rename(elsewhere)
    (place.folder / "results").symlink_to("elsewhere" if number % 2 else elsewhere)
    outcome.passed_by(place, reference, TABLES)


@pytest.mark.parametrize("to", ["nothing", "a file", "itself"])
def test_results_is_a_link_to_no_folder(
    place: Place, reference: Path, outcome: Outcome, to: str, number: int
) -> None:
    outcome.fault, outcome.where = "results is a link", f"to {to}"
    link = place.folder / "results"
    link.symlink_to({"nothing": "gone", "a file": "study.yaml", "itself": "results"}[to])
    outcome.met(*place.run(TABLES), r"^\s*error: .*results")
    link.unlink()
    copy_of(reference, place.folder, "tables/*")
    outcome.resume(place, reference, TABLES)
