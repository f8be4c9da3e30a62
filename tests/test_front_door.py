"""What the command line says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lomo import cli
from lomo.cli import main
from lomo.system import command

ROOT = Path(__file__).parents[1]


def test_without_a_command_it_prints_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "predict" in told.out and "Exit codes: 0" in told.out


def test_the_version_is_the_projects(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert capsys.readouterr().out.startswith(f"{project['name']} {project['version']}")


def test_a_commit_of_another_repository_is_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a package that was installed into somebody else's checkout."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site-packages").mkdir()
    monkeypatch.setattr(cli, "ROOT", tmp_path / "site-packages")
    assert "commit" not in cli.version_line()


def test_no_torch_is_loaded_before_a_mistake_is_told() -> None:
    """The hub, a folder without a config, an unknown card: told at once."""
    script = (
        "import sys; from lomo.cli import main\n"
        "for more in (['--model', 'nobody/nothing'], ['--model', '/'], ['--model', 'lama-7b'],\n"
        "             ['--model', 'llama-7b', '--gpu', 'RTX 4091']):\n"
        "    assert main(['predict', '--method', 'lomo', '--seq-len', '8', *more]) == 2\n"
        "assert main(['fits', '--gpu', '24', '--models', 'nobody/nothing']) == 2\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error:") == 5


def test_what_takes_long_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUIET_S", 0.0)
    with command.waiting("predicting") as _:
        while "predicting (0 s)\n" not in capsys.readouterr().err:
            pass
    monkeypatch.setattr(command, "QUIET_S", 60.0)
    with command.waiting("a moment"):
        pass
    assert capsys.readouterr().err == ""
