"""Where a program can't be contained it is refused, and the probe sees each hole."""

from __future__ import annotations

import ast
import builtins
import platform
import shutil
from pathlib import Path
from typing import Any

import pytest

from lomo.contained import bubblewrap, probe, system_calls
from lomo.errors import UserError

ROOT = Path(__file__).parents[2]
needs_sandbox = pytest.mark.skipif(
    probe.cannot_contain() is not None, reason=str(probe.cannot_contain())
)


@pytest.fixture(autouse=True)
def asked_anew() -> Any:
    probe.cannot_contain.cache_clear()
    yield
    probe.cannot_contain.cache_clear()


@needs_sandbox
def test_it_is_tried_once_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.require("config/study.yaml: suites.humaneval")
    monkeypatch.setattr(probe, "judge", None)
    probe.require("config/study.yaml: suites.humaneval")


def test_without_bubblewrap_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "installed", lambda: None)
    with pytest.raises(UserError) as refused:
        probe.require("config/study.yaml: suites.humaneval")
    assert refused.value.where == "config/study.yaml: suites.humaneval"
    assert "bwrap" in str(refused.value)
    assert "not run uncontained" in str(refused.value.fix)


def test_on_another_machine_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert "riscv64" in str(probe.cannot_contain())


def test_where_namespaces_are_forbidden_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forbidden = tmp_path / "bwrap"
    forbidden.write_text("#!/bin/sh\necho 'bwrap: setting up uid map: Permission denied'; exit 1\n")
    forbidden.chmod(0o755)
    monkeypatch.setattr(bubblewrap, "installed", lambda: forbidden)
    assert "uid map: Permission denied" in str(probe.cannot_contain())


HOLES = {
    "processes": "it sees other processes",
    "calls": "it opens a socket",
    "environment": "it sees the environment",
    "writing": "it writes to /",
    "limits": "it has memory without end",
    "files": "it sees files",
    "accounts": "it reads accounts",
    "packages": "it sees packages",
}
# Options of the command, with the number of its words that go with each.
LEFT_OUT = {
    "processes": {"--unshare-all": 1, "--hostname": 2},
    "calls": {"--seccomp": 2},
    "writing": {"--remount-ro": 2},
    "packages": {"--tmpfs": 4},
}
PUT_IN = {
    "processes": ["--ro-bind", "/proc", "/proc"],
    "environment": ["--setenv", "TOKEN", "x"],
    "files": ["--ro-bind", "/usr/bin", "/usr/bin"],
    "accounts": ["--ro-bind", "/etc/passwd", "/etc/passwd"],
}


@needs_sandbox
@pytest.mark.parametrize("hole", HOLES)
def test_a_hole_is_seen(hole: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command with a part left out or put in, judged by the program of the probe."""
    whole = bubblewrap.command

    def with_hole(*args: Any, **named: Any) -> list[str]:
        words = whole(*args, **named)
        for gone, num in LEFT_OUT.get(hole, {}).items():
            while gone in words:
                del words[words.index(gone) : words.index(gone) + num]
        at = words.index("--dir")
        words[at:at] = PUT_IN.get(hole, [])
        return words

    monkeypatch.setattr(bubblewrap, "command", with_hole)
    if hole == "limits":
        inside = tmp_path / "inside"
        shutil.copytree(bubblewrap.INSIDE, inside, ignore=shutil.ignore_patterns("__pycache__"))
        (inside / "limits.py").write_text("def limit(*_):\n    pass\n")
        monkeypatch.setattr(bubblewrap, "INSIDE", inside)
    assert HOLES[hole] in str(probe.cannot_contain())


def test_outside_the_sandbox_nothing_runs_what_a_model_has_written() -> None:
    """No call that runs text, in what reads, asks and judges; and nothing runs at import."""
    running = {"exec", "eval", "compile", "__import__"} & set(dir(builtins))
    for folder in ("lomo/contained", "lomo/suites"):
        for path in (ROOT / folder).glob("*.py"):
            tree = ast.parse(path.read_text())
            called = {
                node.func.id
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
            assert called & running == set(), path
            loose = [node for node in tree.body if isinstance(node, ast.Expr)]
            assert all(isinstance(node.value, ast.Constant) for node in loose), path
    assert set(system_calls.MACHINES) == {"x86_64", "aarch64"}
