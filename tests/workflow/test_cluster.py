"""What runs ask a cluster for, by a dry run; `make test-cluster` has a real one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.workflow.test_dag import checkout, snakemake

__all__ = ["checkout"]

STUDY = """
study: asked
title: a study for a test
data: generated
device: cuda
memory:
  models: [tiny-s]
  methods: [lomo]
  batch_size: 12
  sequence_length: 32
  engine: fsdp2
  num_devices: 12
throughput:
  models: [tiny-s]
  methods: [lomo]
  batch_size: 1
  sequence_length: 32
"""


@pytest.mark.slow
def test_a_run_asks_for_as_many_nodes_as_hold_its_ranks_evenly(checkout: Path) -> None:
    (checkout / "asked.yaml").write_text(STUDY)
    profile = ["--workflow-profile", "profiles/slurm", "--quiet", "host"]
    asks = ["--cores", "64", "--resources", "ranks_per_node=5", "machine=1"]
    done = snakemake(checkout, "-n", *profile, *asks, "--configfile", "asked.yaml")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    blocks = output.split("\nrule measure:")[1:]
    spread, alone = sorted(blocks, key=lambda block: "fsdp2" not in block)
    # Of 12 ranks three nodes of at most 5 have 4 each.
    for found in ("nodes=3", "gpu=12", "mpi=srun", "tasks=3", "slurm_extra=--exclusive"):
        assert re.search(rf"\b{found}\b", spread), spread
    assert re.search(r"\bthreads: 4\b", spread), spread
    assert re.search(r"\bnodes=1\b", alone) and re.search(r"\bgpu=1\b", alone), alone
    assert "mpi=" not in alone and "threads:" not in alone, alone
