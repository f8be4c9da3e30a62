"""What is written offline, read back by wandb itself (`wandb leet inspect`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def inspected(run: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_run_tells_all_but_the_machine(written: Path) -> None:
    (folder,) = (written / "wandb").glob("offline-run-*train-mini-lomo-rte*")
    records = inspected(folder)
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert (run["run_group"], run["job_type"], run["host"]) == ("made-up", "train", "-")
    config = run["config"]["update"]
    assert config["names"] == {"method": "LOMO", "task": "RTE"}
    assert (config["model_path"], config["data_path"]) == ("mini", "data")
    assert "secret-home" not in json.dumps(records)
    steps = [record for record in records if record["type"] == "history"]
    assert any("step/loss" in json.dumps(record) for record in steps)
    summary = json.dumps([record for record in records if record["type"] == "summary"])
    assert "accuracy/mini/rte" in summary
