"""What Snakemake's command line would drop in silence is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lomo.errors import UserError
from lomo.pipeline.snakefile import check_given_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "where", "fix"),
    [
        (["--config", "models=A", "models=B"], "--config models", "models='[A, B]'"),
        (["-C", "a=1", "b=2", "a=3", "-n"], "--config a", "a='[1, 3]'"),
        (["--config=a=1", "--config", "a=2"], "--config a", "a='[1, 2]'"),
        (["--config", "a=1", "-n", "--config", "b=2"], "--config", "--config a=1 b=2"),
    ],
)
def test_what_would_be_dropped_is_refused(arguments: list[str], where: str, fix: str) -> None:
    with pytest.raises(UserError, match=f"^{where}: is given ") as refused:
        check_given_config(["--cores", "1", *arguments])
    assert fix in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--configfile", "a.yaml", "--config", "models=[A,B]", "data=B", "-n"],
        ["-n", "plan", "--configfile", "a.yaml", "b.yaml"],
        ["--config", "title=a=b"],
    ],
)
def test_what_is_taken_whole_passes(arguments: list[str]) -> None:
    check_given_config(arguments)


@pytest.mark.slow
def test_the_pipeline_asks_before_it_plans() -> None:
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "1"]
    done = subprocess.run(
        [*command, "--config", "models=A", "models=B"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert "error: --config models: is given 2 times" in done.stderr
