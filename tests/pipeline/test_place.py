"""A place where no study can be written is told before Snakemake falls over it."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
from pathlib import Path

import pytest

from lomo.errors import UserError
from lomo.pipeline.place import (
    check_place,
    check_products,
    check_temporary_files,
    full_disk,
    settle_times,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_new_folder_one_with_results_and_a_link_to_one_are_places(folder: Path) -> None:
    check_place("mini", writes=True)
    assert not list(folder.iterdir()), "it makes nothing"
    (folder / "elsewhere/mini").mkdir(parents=True)
    (folder / ".snakemake/log").mkdir(parents=True)
    (folder / "results").symlink_to("elsewhere")
    check_place("mini", writes=True)


@pytest.mark.parametrize("to", ["gone", "a-file", "results"])
def test_a_link_to_no_folder_is_refused(folder: Path, to: str) -> None:
    (folder / "a-file").touch()
    (folder / "results").symlink_to(to)
    for writes in (True, False):  # a dry run would end in a traceback, too
        with pytest.raises(UserError, match=f"results: is a link to {to}, which is no folder"):
            check_place("mini", writes=writes)


def test_a_file_in_the_place_of_a_folder_is_refused(folder: Path) -> None:
    (folder / "results").mkdir()
    (folder / "results/mini").touch()
    with pytest.raises(UserError, match="results/mini: is there, and is no folder"):
        check_place("mini", writes=True)


@pytest.mark.parametrize(
    "closed", [".", "results/mini", "results/mini/logs", ".snakemake", ".snakemake/log"]
)
def test_a_closed_folder_is_refused_where_it_is_written(
    folder: Path, closed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if closed != ".":
        for name in ("results/mini/logs", ".snakemake/log"):
            (folder / name).mkdir(parents=True)
    real = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda at, how: str(at) != closed and real(at, how))
    check_place("mini", writes=False)
    with pytest.raises(UserError, match=r"cannot be written \(Permission denied\)"):
        check_place("mini", writes=True)


def test_a_full_folder_for_temporary_files_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folder))
    check_temporary_files()
    monkeypatch.setenv("TMPDIR", str(folder / "gone"))
    with pytest.raises(UserError, match="gone: takes no temporary files"):
        check_temporary_files()


def test_files_of_tomorrow_become_files_of_now_in_their_order(folder: Path) -> None:
    results = folder / "results/mini"
    (results / "runs").mkdir(parents=True)
    times = {"plan.json": -60, "runs/record.json": 86_400, "records.csv": 86_401}
    for name, offset_s in times.items():
        (results / name).touch()
        os.utime(results / name, (time.time() + offset_s,) * 2)
    before_s = (results / "plan.json").stat().st_mtime
    assert "2 files in results/mini are of a time to come" in str(settle_times("mini"))
    found = [(results / name).stat().st_mtime for name in times]
    assert found == sorted(found) and len(set(found)) == 3
    assert found[0] == before_s and found[-1] <= time.time()
    assert settle_times("mini") is None


def test_a_closed_folder_of_what_is_to_be_made_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake would take away a file that is not there, and end in a traceback."""
    tables = folder / "results/mini/tables"
    tables.mkdir(parents=True)
    files = ["results/mini/tables/records.csv", "results/mini/figures/new/overview.svg"]
    check_products(files)
    assert not (folder / "results/mini/figures").exists(), "it makes nothing"
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda at, how: str(at) != "results/mini/tables" and real(at, how)
    )
    check_products(files[1:])
    with pytest.raises(UserError, match=r"results/mini/tables: cannot be written"):
        check_products(files)


def test_a_full_disk_is_told_where_no_log_could_say_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "results/mini").mkdir(parents=True)
    assert full_disk("mini") is None

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Full())
    told = str(full_disk("mini"))
    assert "results/mini: cannot be written (No space left on device)" in told
    assert "make room" in told
