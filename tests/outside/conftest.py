"""Packages from outside on the path, and everything that was found of them forgotten after."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lomo import methods
from lomo.tasks import entry, registry
from tests.outside.package import write_lines, write_package

CACHED = (
    *(methods.points, methods.modules, methods._outside),
    *(entry.points, entry.outside, registry._check),
)


def forget() -> None:
    for cached in CACHED:
        cached.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] in ("somebody", "other")]:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Makes a package and puts it on the path."""

    def installed(**changes: Any) -> Path:
        folder = write_package(tmp_path / changes.get("name", "site"), **changes)
        monkeypatch.syspath_prepend(str(folder))
        forget()
        return folder

    yield installed
    forget()


@pytest.fixture
def data(tmp_path: Path, data_folder: Path) -> Path:
    """The six tasks' lines, and the outside task's beside them."""
    folder = Path(shutil.copytree(data_folder, tmp_path / "data"))
    write_lines(folder)
    return folder
