"""A place where no study can be written is told before Snakemake falls over it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lomo.errors import UserError
from lomo.pipeline.place import check_place


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
