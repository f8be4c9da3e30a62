"""Ranks over several nodes: srun starts a launcher on each. Here a stand-in does, on one machine;
`make test-cluster` has a real one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lomo.engines.launch import RankFailed, launch_on_nodes
from lomo.engines.nodes import check
from lomo.errors import UserError
from lomo.record.schema import read_record
from tests.distributed.test_runs import command

ROOT = Path(__file__).parent.parent.parent

# Starts the command once a node, and ends all with the first that fails, as --kill-on-bad-exit.
SRUN = f"""#!{sys.executable}
import os, subprocess, sys, time
first = next(n for n, word in enumerate(sys.argv[1:], 1) if not word.startswith("--"))
nodes = next(int(word[8:]) for word in sys.argv[1:first] if word.startswith("--nodes="))
envs = [{{**os.environ, "SLURM_NODEID": str(node)}} for node in range(nodes)]
steps = [subprocess.Popen(sys.argv[first:], env=env) for env in envs]
codes = [None]
while None in codes and not any(codes):
    time.sleep(0.05)
    codes = [step.poll() for step in steps]
[step.terminate() for step in steps]
sys.exit(max(step.wait() if code is None else code for step, code in zip(steps, codes)))
"""


@pytest.fixture
def allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An srun in front of all others; its file."""
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return srun


@pytest.mark.slow
def test_two_nodes_give_what_one_gives(
    study_dict: dict[str, Any], tmp_path: Path, allocation: Path
) -> None:
    study_dict["superglue"]["methods"] = study_dict["memory"]["methods"] = ["lomo"]
    records = []
    for nodes in ("1", "2"):
        folder = tmp_path / nodes
        arguments = [*command(study_dict, "train", "lomo", "fsdp2", folder), "--nodes", nodes]
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert not list(folder.glob(".*node-*"))
        records.append(read_record(folder / "record.json"))
    one, two = records
    assert one.status == two.status == "ok"
    assert one.result == two.result
    assert one.training.last_loss == two.training.last_loss


def test_a_node_that_fails_is_told(tmp_path: Path, allocation: Path) -> None:
    def launched() -> None:
        launch_on_nodes(["train"], 2, 2, tmp_path, num_threads=1, started_at=0.0)

    with pytest.raises(RankFailed, match="srun ended with exit code 2, and no node has told why"):
        launched()
    # The second node ran out of memory, and srun has ended the first for it.
    words = {"at": 5.0, "message": "rank 1: no memory", "step": 3, "kind": "oom"}
    ended = {"at": 1.0, "message": "rank 0: ended by SIGTERM", "number": 15, "kind": "interrupted"}
    lines = [f"(r'{tmp_path}/.node-{n}', {json.dumps(w)!r})" for n, w in enumerate((ended, words))]
    allocation.write_text(
        f"#!{sys.executable}\n"
        f"import sys\nfor path, text in [{', '.join(lines)}]:\n    open(path, 'w').write(text)\n"
        "sys.exit(1)\n"
    )
    with pytest.raises(RankFailed, match="rank 1: no memory") as failed:
        launched()
    assert (failed.value.kind, failed.value.step) == ("oom", 3)
    assert not list(tmp_path.glob(".node-*"))


def test_nodes_that_cannot_be_had_are_refused(
    allocation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(2, 4)
    with pytest.raises(UserError, match="3 ranks are not to be spread evenly over 2 nodes"):
        check(2, 3)
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(UserError, match="needs an allocation of Slurm's"):
        check(2, 4)
