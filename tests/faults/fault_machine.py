"""What a machine may do: limits, a clock set back, no room for temporary files, no network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.fault_doors import as_ordinary
from tests.faults.fault_full_disk import fill, mount
from tests.faults.outcomes import Outcome
from tests.faults.study import LOMO_RUN, ROOT, TABLES, Place, copy_of, preloaded, wait_until

RUN = ("runs/train", "tables", "figures", "report", "wandb", ".made")
DAY_S = 86_400
# Of one process, as prlimit takes them; from what can't work to what may.
LIMITS = {
    "memory": ("--as=800000000", "--as=1500000000", "--as=2500000000"),
    "open files": ("--nofile=12", "--nofile=64", "--nofile=80"),
    "size of files": ("--fsize=20000", "--fsize=60000", "--fsize=150000"),
    # With fewer, Snakemake's Slurm plugin, which starts a program as it is imported, ends in a
    # traceback before any code of ours (docs/faults.md).
    "processes": ("--nproc=6", "--nproc=8", "--nproc=16"),
}
SAID = {
    "memory": "memory|failed to map|too low",
    "open files": "[Tt]oo many open files|too low",
    "size of files": "File too large",
    "processes": "temporarily unavailable|new thread|limit of processes|too low",
}


@pytest.mark.parametrize("what", LIMITS)
def test_limits(
    place: Place, reference: Path, open_python: None, outcome: Outcome, what: str, number: int
) -> None:
    """Of an ordinary user: root's number of processes is not limited."""
    limit = LIMITS[what][number % 3]
    outcome.fault, outcome.where = "a limit", what
    copy_of(reference, place.folder, *RUN)
    as_ordinary(place)
    place.before = [*place.before, "prlimit", limit]
    code, output = place.run(TABLES)
    if code == 0:
        outcome.passed(output, SAID[what])
    else:
        outcome.met(code, output, SAID[what])
    place.note_finished()
    place.before = place.before[:-2]
    outcome.resume(place, reference, TABLES)


def test_a_clock_set_back_between_two_starts(
    place: Place, reference: Path, outcome: Outcome, number: int
) -> None:
    """What stands was made tomorrow: it is not made again, and what is missing is."""
    outcome.fault, outcome.where = "a clock set back", "between two starts, by a day"
    copy_of(reference, place.folder, *(RUN if number else ("tables",)))
    for path in place.folder.rglob("*"):
        time_s = path.lstat().st_mtime + DAY_S
        os.utime(path, (time_s, time_s), follow_symlinks=False)
    place.note_finished()
    outcome.passed_by(place, reference, TABLES)
    code, output = place.run(TABLES, "-n")
    assert code == 0 and "Nothing to be done" in output, output


def test_a_clock_set_back_during_a_run(
    place: Place, reference: Path, outcome: Outcome, session_folder: Path, number: int
) -> None:
    outcome.fault, outcome.where = "a clock set back", "during a run, by an hour"
    copy_of(reference, place.folder, *RUN)
    switch = place.folder / "set-back"
    given = {"CLOCK_BACK_S": "3600", "CLOCK_SET": str(switch)}
    place.environment |= preloaded(session_folder, "CLOCK") | given
    process = place.start(TABLES)
    history = place.folder / LOMO_RUN / "history.jsonl"
    wait_until(lambda: history.exists() or process.poll() is not None)
    switch.touch()
    code = process.wait(timeout=300)
    outcome.passed(place.said(), "clock") if code == 0 else outcome.met(code, place.said(), "clock")
    place.environment = {}
    place.note_finished()
    outcome.resume(place, reference, TABLES)


def test_no_room_for_temporary_files(
    place: Place, reference: Path, own_mounts: bool, outcome: Outcome, number: int
) -> None:
    outcome.fault, outcome.where = "disk full", "TMPDIR"
    copy_of(reference, place.folder, *RUN)
    temporary = place.folder / "temporary"
    mount(temporary, own_mounts, "64k")
    fill(temporary / "of-others", left_kib=(0, 4, 16)[number % 3])
    place.environment["TMPDIR"] = str(temporary)
    outcome.met(*place.run(TABLES), "takes no temporary files .No space left")
    place.note_finished()
    place.environment = {}
    outcome.resume(place, reference, TABLES)


def test_no_network(
    place: Place, reference: Path, own_mounts: bool, outcome: Outcome, number: int
) -> None:
    """Not even the machine's own loopback."""
    outcome.fault, outcome.where = "no network", "not even loopback"
    if not own_mounts:
        pytest.skip("a process without a network can't be made here (it takes root)")
    copy_of(reference, place.folder, *RUN)
    place.before = ["unshare", "--net"]
    code, output = place.run(TABLES, "results/mini/wandb/published.json")
    assert code == 0, output
    outcome.passed(output, "network")
    outcome.judge(place, reference)


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_another_python(
    place: Place, reference: Path, session_folder: Path, outcome: Outcome, version: str, number: int
) -> None:
    """The study that one Python has begun is ended by another."""
    place.python = environment_of(version)
    outcome.fault, outcome.where = "another Python", version
    copy_of(reference, place.folder, "runs/train/mini/lomo", *RUN[1:])
    # A record says which Python and which build of torch made it, and the table of records, too.
    place.expected = r"records\.csv: .*, (python|torch): '"
    outcome.passed_by(place, reference, TABLES)


def environment_of(version: str) -> Path:
    """The interpreter of the environment for that Python; `make venv` makes one."""
    found = ROOT / f".venv-{version}" / "bin" / "python"
    if not found.is_file():
        pytest.skip(f"no .venv-{version}: make venv VENV=.venv-{version} PYTHON=python{version}")
    return found
