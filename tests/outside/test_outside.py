"""A task and a method of another package stand in every table, figure and plan, as ours do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.cli import main as analysis
from analysis.figures.all import figures_of
from analysis.records.collected import load
from analysis.tables.superglue import table_superglue
from lomo import cli, methods
from lomo.methods import support
from lomo.record.clock import Clock
from lomo.run.execute import execute
from lomo.study.config import Study
from lomo.study.plan import Plan, make_plan
from lomo.system.files import write_text

ROOT = Path(__file__).parents[2]
METHODS = ["zero_shot", "lomo", "mine"]
# Tables with a row a method of the study; the column that names it.
OF_METHODS = {
    "records": "method",
    "table1_memory": "method",
    "table2_throughput": "method",
    "table3_superglue": "method",
    "table4_hyperparameters": "method",
}


def study_of(study: dict[str, Any], data: Path, tasks: list[str], methods: list[str]) -> Study:
    trained = [method for method in methods if method != "zero_shot"]
    settings = study["superglue"]["settings"] | {"epochs": 1}
    accuracy = study["superglue"] | {"methods": methods, "tasks": tasks, "settings": settings}
    memory = study["memory"] | {"methods": trained, "activation_checkpointing": [True]}
    sections = {"superglue": accuracy, "memory": memory, "throughput": memory | {"batch_size": 1}}
    return Study.model_validate(study | {"data": str(data), "protocol": "paper"} | sections)


def ran(results: Path, study: Study) -> Plan:
    """Every run of a study, then all that analysis makes of the records."""
    plan = make_plan(study, source="unit.yaml")
    write_text(results / "plan.json", plan.model_dump_json())
    for run_id, spec in plan.runs.items():
        assert execute(spec, results / "runs" / run_id, Clock()).status == "ok"
    assert analysis(["all", "--results", str(results)]) == 0
    return plan


@pytest.mark.slow
def test_a_task_and_a_method_from_outside_are_in_everything(
    study_dict: dict[str, Any], data: Path, install: Callable[..., Path], tmp_path: Path
) -> None:
    install()
    ran(tmp_path / "unit", study_of(study_dict, data, ["sst2", "rte"], METHODS))
    tables = tmp_path / "unit" / "tables"
    for name, column in OF_METHODS.items():
        assert "mine" in set(pd.read_csv(tables / f"{name}.csv")[column]), name
    for name in ("records", "table3_superglue", "table4_hyperparameters"):
        assert {"sst2", "rte"} <= set(pd.read_csv(tables / f"{name}.csv")["task"].dropna()), name
    shown = (tables / "table3_superglue.md").read_text()
    assert "| model | method | Stanford 2 | RTE | average |" in shown
    assert "The average is over Stanford 2 and RTE, the paper's over its six tasks; " in shown
    scores = pd.read_csv(tables / "table3_superglue.csv").set_index(["method", "task"])["accuracy"]
    for method in METHODS:
        both = (scores[method, "sst2"] + scores[method, "rte"]) / 2
        assert scores[method, "average"] == pytest.approx(both)
    assert "Mine" in (tables / "table4_hyperparameters.md").read_text()
    report = (tmp_path / "unit" / "report" / "index.html").read_text()
    assert report.count("Mine") >= 5 and report.count("Stanford 2") >= 3
    drawn = {path.stem for path in (tmp_path / "unit" / "figures").iterdir()}
    assert drawn == {name for name, _ in figures_of(load(tmp_path / "unit")).values()}


@pytest.mark.slow
def test_a_study_of_nothing_but_a_task_from_outside_is_whole(
    study_dict: dict[str, Any], data: Path, install: Callable[..., Path], tmp_path: Path
) -> None:
    install()
    ran(tmp_path / "unit", study_of(study_dict, data, ["sst2"], ["zero_shot", "mine"]))
    verdicts = pd.read_csv(tmp_path / "unit" / "tables" / "verdicts.csv").set_index("what")
    claim = verdicts.loc["Mean accuracy, LOMO at least LoRA"]
    assert claim["verdict"] == "not comparable"
    assert "none of the paper's tasks" in claim["reason"]
    notes = " ".join(table_superglue(load(tmp_path / "unit")).notes)
    assert "the paper's over its six tasks; Stanford 2 is not among them." in notes


def test_a_method_from_outside_is_predicted_and_in_the_matrix(
    install: Callable[..., Path],
    study_dict: dict[str, Any],
    data: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    install()
    (model,) = study_dict["superglue"]["models"]
    options = ["--model", model, "--method", "mine", "--seq-len", "32"]
    assert cli.main(["predict", *options]) == 0
    assert "mine" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    whole = study_of(study_dict, data, ["sst2"], ["mine"])
    study = whole.model_copy(update={"memory": None, "throughput": None})
    plan = make_plan(study, source="unit.yaml")
    write_text(Path("unit/plan.json"), plan.model_dump_json())
    assert cli.main(["plan", "unit/plan.json"]) == 0
    printed = capsys.readouterr().out
    assert "mine" in printed and "1 runs" in printed
    assert "mine" in {method for method, _, _ in support.cells()}
    # What is committed is of this repository's methods alone.
    assert "mine" not in support.markdown()
    assert list(methods.modules())[-1] == "mine"


@pytest.mark.slow
def test_the_pipeline_plans_them(
    install: Callable[..., Path], study_dict: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    site = install()
    study = study_of(study_dict, data, ["sst2", "rte"], METHODS)
    (tmp_path / "study.json").write_text(study.model_dump_json(exclude_defaults=True))
    (tmp_path / "config").mkdir()
    shutil.copy(ROOT / "config" / "models.yaml", tmp_path / "config")
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", "study.json"]
    files = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    path = os.pathsep.join([str(site), str(ROOT)])
    done = subprocess.run(
        [*command, *files, "--cores", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    counts = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE))
    assert counts["train"] == str(len(METHODS) * 2)
