"""Any working folder, any profile, and `--config` as it was typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lomo.errors import UserError
from lomo.model.registry import CHECKOUT, registry, registry_path
from lomo.study.config import as_typed
from lomo.study.plan import plan_from_config
from lomo.system.strict import read_yaml

ROOT = Path(__file__).parents[2]
STUDIES = sorted(
    path
    for path in (ROOT / "config").glob("*.yaml")
    # All but the first need files of the user's.
    if path.name not in ("models.yaml", "local.yaml", "suites.yaml", "suites-bf16.yaml")
)
OWN_MODELS = """
own model:
  weights: random
  architecture: {model_type: llama, vocab_size: 400, hidden_size: 32, intermediate_size: 64,
                 num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 64}
"""
OWN_STUDY = """
study: own
title: a study of the user's own
data: generated
device: cpu
wandb: "off"
memory:
  models: [own model]
  methods: [lomo]
  batch_size: 2
  sequence_length: 32
  dtype: float32
  num_timed_steps: 3
"""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder that is no checkout, with a name that shells and YAML trip over."""
    folder = tmp_path / 'it\'s "my" {x} é #1'
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv(CHECKOUT, raising=False)
    registry.cache_clear()
    yield folder
    registry.cache_clear()


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_is_planned_from_another_folder(study: Path, elsewhere: Path) -> None:
    assert plan_from_config(read_yaml(study), source=os.path.relpath(study)).runs
    assert not list(elsewhere.iterdir()), "planning writes nothing"


def test_a_registry_of_the_working_folder_comes_first(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registry_path().resolve() == ROOT / "config" / "models.yaml"
    other = tmp_path / "checkout" / "config" / "models.yaml"
    other.parent.mkdir(parents=True)
    other.touch()
    monkeypatch.setenv(CHECKOUT, str(tmp_path / "checkout"))  # the Snakefile's, not the package's
    assert registry_path().resolve() == other
    (elsewhere / "config").mkdir()
    (elsewhere / "config" / "models.yaml").write_text(OWN_MODELS)
    assert str(registry_path()) == "config/models.yaml" and list(registry()) == ["own model"]


@pytest.mark.parametrize("given", [{"data": "{x}"}, {"models": "a{x}"}, {"models": ["a", "}"]}])
def test_a_brace_in_a_path_is_refused_and_not_taken_for_a_wildcard(
    given: dict[str, object], elsewhere: Path
) -> None:
    study = yaml.safe_load(OWN_STUDY) | given
    with pytest.raises(UserError, match="takes for a wildcard"):
        plan_from_config(study, source="study.yaml")


@pytest.mark.parametrize(
    ("entry", "read", "expected"),
    [
        ("data=2024_11_25", 20241125, "2024_11_25"),
        ("data=007", 7, "007"),
        ("models=1e3", 1000.0, "1e3"),
        ("models=True", True, "True"),
        ("models=nan", float("nan"), "nan"),
        ("data=runs #2", "runs", "runs #2"),  # a comment, to YAML
        ("data=a: b", {"a": "b"}, "a: b"),
        ("data=&a b", "b", "&a b"),
        ("data=a=b", "a=b", "a=b"),
        ("title=12", 12, "12"),
        ("models=[1e3, 007]", ["1e3", "007"], ["1e3", "007"]),
        ("data='my data'", "my data", "my data"),
        ("num_threads=2", 2, 2),
        ("launch_anyway=True", True, True),
    ],
)
def test_config_is_read_as_typed(entry: str, read: object, expected: object) -> None:
    key = entry.split("=")[0]
    assert as_typed({key: read, "study": "x"}, [entry]) == {key: expected, "study": "x"}


def test_without_config_nothing_is_changed() -> None:
    assert as_typed({"data": 7}, None) == as_typed({"data": 7}, []) == {"data": 7}


def snakemake(folder: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    files = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "own.yaml", "--cores", "2"]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("snakemake")), *files, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_study_of_the_users_own_runs_in_their_folder(elsewhere: Path) -> None:
    """With files beside it that have the names of modules; then with a profile of theirs."""
    for name in ("random.py", "lomo.py", "evaluate.py"):
        (elsewhere / name).write_text("raise SystemExit('the wrong module')")
    (elsewhere / "config").mkdir()
    (elsewhere / "config/models.yaml").write_text(OWN_MODELS)
    (elsewhere / "own.yaml").write_text(OWN_STUDY)
    code, output = snakemake(elsewhere, "results/own/tables/records.csv")
    assert code == 0, output
    (record,) = elsewhere.glob("results/own/runs/measure/**/record.json")
    assert json.loads(record.read_text())["status"] == "ok"

    profile = elsewhere / "theirs" / "config.yaml"
    profile.parent.mkdir()
    profile.write_text("resources: [gpu=4]\nrerun-triggers: [code]\nmax-threads: 1\n")
    (elsewhere / "own.yaml").write_text(OWN_STUDY.replace("steps: 3", "steps: 4"))
    theirs = {"SNAKEMAKE_PROFILE": "theirs"}
    code, output = snakemake(elsewhere, "-n", "--workflow-profile", "none", **theirs)
    assert code == 0 and "gpu=4 is held at 1" in output, output
    assert "machine=1000" in output and "its record has num_timed_steps 3, the plan 4" in output, (
        output
    )

    # What a failed job has said is on the console.
    (elsewhere / "own.yaml").write_text(OWN_STUDY)
    record.write_text("{")
    code, output = snakemake(elsewhere, "results/own/tables/records.csv")
    assert code == 1 and "record.json: not a whole JSON file (line 1)" in output, output


MODULE = """
module lomo:
    snakefile: "{root}/Snakefile"
    config: {study}

use rule * from lomo

rule lines:
    input:
        "results/own/tables/records.csv",
    output:
        "results/own/lines.txt",
    shell:
        "wc -l < {{input:q}} > {{output:q}}"
"""


@pytest.mark.slow
def test_another_workflow_uses_it_as_a_module(tmp_path: Path) -> None:
    """In a folder that is no checkout; the models are those of the module's registry."""
    study = yaml.safe_load(OWN_STUDY.replace("own model", "tiny-m"))
    (tmp_path / "Snakefile").write_text(MODULE.format(root=ROOT, study=study))

    def made(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("snakemake")), "--cores", "2", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    made("results/own/lines.txt")
    assert (tmp_path / "results/own/lines.txt").read_text().strip() == "2"
    (record,) = tmp_path.glob("results/own/runs/measure/tiny-m/**/record.json")
    assert json.loads(record.read_text())["status"] == "ok"
    assert "Nothing to be done" in made("-n", "results/own/lines.txt")
