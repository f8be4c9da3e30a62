"""One made-up results folder with everything built from it, for all tests that only read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import synthetic

from analysis.cli import main


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which every run ended well, with tables, figures and report."""
    folder = tmp_path_factory.mktemp("built") / "made-up"
    synthetic.write_results(folder, synthetic.plan_of(synthetic.study_dict()))
    assert main(["all", "--results", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def loaded() -> set[str]:
    """The modules of a process that imports all of analysis; what makes no figure comes first."""
    code = (
        "import analysis, importlib, pkgutil, sys\n"
        "import analysis.cli, analysis.records.collect, analysis.page.tables\n"
        "assert not {'matplotlib', 'scipy.stats'} & set(sys.modules)  # half of a command's time\n"
        "for module in pkgutil.walk_packages(analysis.__path__, 'analysis.'):\n"
        "    'main' in module.name or importlib.import_module(module.name)\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return set(done.stdout.split())


@pytest.fixture(scope="session")
def paper_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a comparable study (7B, real data, the paper's settings) with failed runs."""
    study = synthetic.study_dict(data="superglue")
    for section in ("superglue", "lora_rank", "memory", "throughput"):
        study[section] = study[section] | {"models": ["llama-7b"]}
    study["memory"] |= {"sequence_length": 512}
    study["throughput"] |= {"sequence_length": 1024}

    def change(run_id: str, record: dict) -> dict | None:
        if run_id == "measure/llama-7b/adamw/1024x1-bfloat16-checkpointed":
            return synthetic.failed(record, "oom")
        if run_id.startswith("measure/llama-7b/lora_lomo/512x8"):
            return None
        if run_id.startswith("train/llama-7b/sgd/rte"):
            return synthetic.failed(record, "diverged")
        return record

    folder = tmp_path_factory.mktemp("paper-like") / "made-up"
    synthetic.write_results(folder, synthetic.plan_of(study), change)
    for command in ("collect", "table"):
        assert main([command, "--results", str(folder)]) == 0
    return folder
