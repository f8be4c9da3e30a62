"""A study of suites alone in the pipeline: made, standing, and made again where it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mini_model import MODELS

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow

STUDY = """
study: alone
title: suites and nothing else
data: generated
device: cpu
wandb: "off"
generated: {num_sentences: 300, num_train: 60, num_val: 20}
suites:
  models: [mini]
  seeds: [7, 8]
  data: generated
  dtype: float32
  batch_size: 32
  tasks: {miniature: {limit: 8}}
"""
RECORD = Path("results/alone/runs/suite/mini/base/miniature/s7/record.json")


def snakemake(folder: Path, *more: str) -> str:
    command = [str(Path(sys.executable).with_name("snakemake")), "--cores", "2"]
    done = subprocess.run(
        [*command, "--snakefile", str(ROOT / "Snakefile"), "--configfile", "alone.yaml", *more],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_study_may_have_suites_alone(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/models.yaml").write_text(MODELS)
    (tmp_path / "alone.yaml").write_text(STUDY)
    told = snakemake(tmp_path)
    assert "0 runs, 2 scores of suites" in told and "study alone is complete" in told
    assert "Select jobs to execute" not in told, "the line of progress stands for it"
    table = (tmp_path / "results/alone/tables/table_suites.md").read_text()
    assert "| mini | base |" in table and "n 32 in 4 subjects, the first 8 each" in table
    page = (tmp_path / "results/alone/report/index.html").read_text()
    assert "Benchmark suites: scores by lm-eval" in page
    first = json.loads((tmp_path / RECORD).read_text())
    assert first["reused_from"] is None and first["score"]["num_examples"] == 32
    assert "Nothing to be done" in snakemake(tmp_path, "-n")
    # A record that is gone is made again, of what was kept; a gone file of samples likewise.
    (tmp_path / RECORD).unlink()
    (tmp_path / RECORD.parent.with_name("s8") / "samples.jsonl").unlink()
    told = snakemake(tmp_path)
    assert "samples.jsonl beside its record is gone" in told
    again = json.loads((tmp_path / RECORD).read_text())
    assert again["score"] == first["score"]
    assert again["reused_from"] == "alone: suite/mini/base/miniature/s7"
    assert "Nothing to be done" in snakemake(tmp_path, "-n")
