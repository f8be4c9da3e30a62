"""A made-up study that names places of this machine, its runs written offline, and a server."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic

from analysis.cli import main
from tests.analysis.dashboard.wandb_server import ROOT, Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small collected study whose records and one table hold paths; 4 runs written offline."""
    home = tmp_path_factory.mktemp("secret-home")
    study = synthetic.study_dict()
    study["superglue"] |= {"methods": ["zero_shot", "lomo"], "tasks": ["rte"], "grids": {}}
    study["memory"] |= {"methods": ["lomo"], "activation_checkpointing": [True]}
    study["throughput"] |= {"methods": ["lomo"]}
    del study["lora_rank"]
    plan = synthetic.plan_of(study)
    results = home / "results" / "made-up"
    synthetic.write_results(results, plan)
    assert main(["collect", "--results", str(results)]) == 0
    synthetic.write_results(results, plan, lambda _, record: _with_places(record, home))
    (results / "figures").mkdir()
    (results / "figures" / "overview.svg").write_text("<svg/>")
    (results / "tables" / "note.md").write_text(f"Made from {home}/data/x.jsonl.\n")
    code = (
        "import pathlib, sys; from lomo.record.tracking import publish;"
        "from lomo.study.plan import read_plan; results = pathlib.Path(sys.argv[1]);"
        "publish(results, list(read_plan(results).runs))"
    )
    command = [sys.executable, "-c", code, str(results)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=env, check=True, cwd=home, timeout=300)
    return results


def _with_places(record: dict[str, Any], home: Path) -> dict[str, Any]:
    places = {"model_path": f"{home}/my models/mini", "data_path": f"{home}/data"}
    return record | {"spec": record["spec"] | places}


@pytest.fixture
def results(written: Path, tmp_path: Path) -> Path:
    """A copy of that study, to send from."""
    copy: Path = shutil.copytree(written, tmp_path / "results" / "made-up", symlinks=True)
    return copy
