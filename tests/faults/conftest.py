"""Faults, one after the other, on a study of seconds: `make test-faults`, not `make test`.

Each is tried --times times. Mounts are made in a namespace of the tests' own, so that nothing of
them is seen outside or outlives them.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lomo.system.files import exclusive
from tests.faults import outcomes
from tests.faults.outcomes import Outcome
from tests.faults.study import ROOT, STUDY, Place, copy_of, kill_all
from tests.workflow.mini_model import MODELS

_CLONE_NEWNS = 0x00020000
_FOLDER = "LOMO_FAULTS_FOLDER"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=int, default=3, help="how often each fault is tried")
    parser.addoption(
        "--outcomes",
        type=Path,
        default=ROOT / "results" / "faults" / "outcomes.md",
        help="the table of outcomes, in Markdown",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(metafunc.config.getoption("--times")))


def lines_at(config: pytest.Config) -> Path:
    path: Path = config.getoption("--outcomes")
    return path.with_suffix(".jsonl").resolve()


def pytest_configure(config: pytest.Config) -> None:
    """One folder for a session, which any user may enter; its processes inherit its name."""
    if not hasattr(config, "workerinput"):
        lines_at(config).unlink(missing_ok=True)
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix="faults-")
        Path(os.environ[_FOLDER]).chmod(0o755)


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ[_FOLDER], ignore_errors=True)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    lines = lines_at(config)
    if lines.is_file():
        text = outcomes.table(lines)
        lines.with_suffix(".md").write_text(text)
        terminalreporter.write_sep("=", "outcomes")
        terminalreporter.write(text)


@pytest.fixture(scope="session", autouse=True)
def own_mounts() -> bool:
    """Whether this process now has mounts of its own, and may make more."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        return False
    private = subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True)
    return private.returncode == 0


@pytest.fixture(scope="session")
def open_python(own_mounts: bool) -> None:
    """Makes the interpreter reachable for any user, where it lies in somebody's closed folder."""
    if not own_mounts:
        pytest.skip("another user can't be tried here (it takes root)")
    base = Path(sys.base_prefix).resolve()
    closed = next((at for at in reversed(base.parents) if not at.stat().st_mode & 0o001), None)
    if closed is None:
        return
    with tempfile.TemporaryDirectory() as aside:
        below = closed / base.relative_to(closed).parts[0]  # other Pythons may lie beside it
        subprocess.run(["mount", "--bind", below, aside], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", closed], check=True)
        below.mkdir()
        subprocess.run(["mount", "--bind", aside, below], check=True)
        subprocess.run(["umount", aside], check=True)


@pytest.fixture(scope="session")
def session_folder() -> Path:
    return Path(os.environ[_FOLDER])


@pytest.fixture(scope="session")
def reference(session_folder: Path) -> Path:
    """The working folder of the study that has met no fault, run once a session."""
    folder = session_folder / "reference"
    with exclusive(session_folder / ".lock"):
        if not (folder / "results/mini/report/index.html").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            prepare(folder)
            code, output = Place(folder).run()
            assert code == 0, output
    return folder


def prepare(folder: Path) -> None:
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(STUDY)
    (folder / "config" / "models.yaml").write_text(MODELS)


@pytest.fixture
def place(session_folder: Path) -> Iterator[Place]:
    """A new working folder with nothing but the study; gone after."""
    folder = Path(tempfile.mkdtemp(prefix="place-", dir=session_folder))
    folder.chmod(0o755)
    prepare(folder)
    place = Place(folder)
    yield place
    for process in place.started:
        kill_all(process)
    unmount_from(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def grown(place: Place, reference: Path) -> Place:
    """The same, after the whole study."""
    copy_of(reference, place.folder)
    return place


def unmount_from(folder: Path) -> None:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    for at in reversed([line.split()[1] for line in mounts]):
        if f"{at}/".startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", at], capture_output=True)


@pytest.fixture
def outcome(request: pytest.FixtureRequest) -> Iterator[Outcome]:
    """What the test fills in; written whatever comes of it."""
    found = Outcome("", "")
    yield found
    if found.fault:
        outcomes.write(found, lines_at(request.config))


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOMO_WARM", "LOMO_QUIET", "LOMO_WANDB", "SNAKEMAKE_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    os.umask(0o022)
