"""The whole pipeline on a mini study: killed and started again, rerun, and edited."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mini_model import MODELS

from lomo.errors import UserError
from lomo.system.files import hold

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.slow

STUDY = """
study: mini
title: a study for a test
data: generated
device: cpu
protocol: paper
generated: {num_sentences: 300, num_train: 60, num_val: 20}
superglue:
  models: [mini]
  methods: [zero_shot, lomo]
  tasks: [boolq]
  settings: {epochs: 30, batch_size: 8, num_train: 32, num_dev: 8, num_test: 16, max_length: 200,
             dtype: float32, activation_checkpointing: false}
memory:
  models: [mini]
  methods: [lomo]
  batch_size: 2
  sequence_length: 32
  num_timed_steps: 3
"""
LOMO_RUN = "results/mini/runs/train/mini/lomo/boolq/s42/t0"
TIMED = ("clock", "provenance", "throughput", "resumed_at_steps")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tracked files with a mini study as the default one."""
    folder = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if not name.startswith("tests/") and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "config/tiny.yaml").write_text(STUDY)
    (folder / "config/models.yaml").write_text(MODELS)
    return folder


def start(checkout: Path, *arguments: str) -> subprocess.Popen[str]:
    snakemake = Path(sys.executable).with_name("snakemake")
    with (checkout / "output.txt").open("w") as output:
        return subprocess.Popen(
            [str(snakemake), "--cores", "2", *arguments],
            cwd=checkout,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )


def run(checkout: Path, *arguments: str, exit_code: int = 0) -> str:
    found = start(checkout, *arguments).wait(timeout=400)
    output = (checkout / "output.txt").read_text()
    assert found == exit_code, output
    return output


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def what_was_found(checkout: Path) -> dict[str, dict[str, object]]:
    """All records, less what may differ between two runs of the same spec: times."""
    found = {}
    for path in sorted((checkout / "results/mini/runs").rglob("record.json")):
        record = json.loads(path.read_text())
        kept = {key: value for key, value in record.items() if key not in TIMED}
        (kept.get("memory") or {}).pop("host_peak_rss_bytes", None)
        found[str(path.relative_to(checkout))] = kept
    return found


def jobs_of(checkout: Path) -> dict[str, int]:
    """The jobs of a dry run, by rule."""
    lines = [line.split() for line in run(checkout, "-n", "--quiet", "rules").splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def finished_at(checkout: Path) -> dict[str, int]:
    return {
        str(path.relative_to(checkout)): path.stat().st_mtime_ns
        for path in (checkout / "results/mini/runs").rglob("record.json")
    }


def test_killed_in_the_middle_of_training_it_ends_with_the_same_tables(checkout: Path) -> None:
    history = checkout / LOMO_RUN / "history.jsonl"
    process = start(checkout)
    # One of the lines may be an evaluation's, and the last step's save may be on its way.
    wait_for(lambda: num_lines(history) > 12 or process.poll() is not None)
    assert process.poll() is None, (checkout / "output.txt").read_text()
    with pytest.raises(UserError, match="another snakemake"):
        hold(checkout / "results/mini/.lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = finished_at(checkout)
    assert f"{LOMO_RUN}/record.json" not in before

    run(checkout)
    after = finished_at(checkout)
    assert {name: after[name] for name in before} == before, "something finished was done again"
    resumed = json.loads((checkout / LOMO_RUN / "record.json").read_text())["resumed_at_steps"]
    assert len(resumed) == 1 and resumed[0] > 10, "it was begun anew"
    killed = what_was_found(checkout)
    assert set(killed) == set(after) and f"{LOMO_RUN}/record.json" in killed
    table = (checkout / "results/mini/tables/table3_superglue.csv").read_text()

    shutil.rmtree(checkout / LOMO_RUN)
    run(checkout)
    assert what_was_found(checkout) == killed, "a run that was never killed found something else"
    assert (checkout / "results/mini/tables/table3_superglue.csv").read_text() == table


def test_a_second_run_plans_nothing(checkout: Path) -> None:
    assert "Nothing to be done" in run(checkout)


def test_snakemakes_own_report_has_all_of_it_and_needs_no_network(checkout: Path) -> None:
    guard = checkout / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(
        "import socket\n"
        "def refused(*_, **__):\n    raise AssertionError('the network was touched')\n"
        "socket.getaddrinfo = refused\n"
    )
    command = [Path(sys.executable).with_name("snakemake"), "--cores", "1", "--report", "own.html"]
    path = os.pathsep.join(map(str, (guard, checkout)))
    done = subprocess.run(
        [str(word) for word in command],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    page = (checkout / "own.html").read_text(encoding="utf-8")
    for name in ("summary.html", "index.html", "records.csv", "overview.svg", "verdicts.html"):
        assert name in page, name
    for words in ("Pages", "Tables", "Figures", "the study on one page", "grad norm over steps"):
        assert words in page, words
    # Captions know their study; the first page is the project's own.
    assert "made of the records alone" in page
    assert "one page in the order of reproduction" in page
    assert "snakemake.wildcards" not in page.split("<script")[0]
    for made in (checkout / "own.html", guard / "sitecustomize.py"):
        made.unlink()


def test_a_real_study_is_exported_with_each_of_its_examples(checkout: Path) -> None:
    command = [sys.executable, "-m", "lomo_analysis", "export", "--results", "results/mini"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [*command, "--out", "exported"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "examples" not in done.stderr
    logs = sorted((checkout / "exported/every_eval_ever").rglob("*.json"))
    assert [path.parent.name for path in logs] == ["mini-lomo", "mini-zero_shot"]
    for path in logs:
        log = json.loads(path.read_text())
        assert log["eval_library"]["version"] not in ("", "unknown")
        lines = Path(str(path).replace(".json", "_samples.jsonl")).read_text().splitlines()
        right = [json.loads(line)["evaluation"]["is_correct"] for line in lines]
        assert len(right) == 16
        score = log["evaluation_results"][0]["score_details"]["score"]
        assert abs(sum(right) / len(right) - score) < 1e-12
    texts = [p.read_bytes() for p in (checkout / "exported").rglob("*") if p.is_file()]
    assert not any(str(checkout).encode() in text for text in texts)
    shutil.rmtree(checkout / "exported")


def test_a_copy_without_snakemakes_metadata_plans_what_was_edited(
    checkout: Path, tmp_path: Path
) -> None:
    copy, results = tmp_path / "copy", Path("results/mini")
    left_out = shutil.ignore_patterns(".snakemake", ".lock", ".warm")
    shutil.copytree(checkout, copy, symlinks=True, ignore=left_out, copy_function=shutil.copy)
    # A copy may make any file the newest: here what everything is made from.
    for name in ("models", "data", "runs"):
        for path in (copy / results / name).rglob("*"):
            os.utime(path)
    assert "Nothing to be done" in run(copy, "-n")

    original = (copy / "config/tiny.yaml").read_text()
    grown = original.replace("methods: [zero_shot, lomo]", "methods: [zero_shot, lomo, sgd]")
    (copy / "config/tiny.yaml").write_text(
        grown.replace("num_timed_steps: 3", "num_timed_steps: 4")
    )
    planned = jobs_of(copy)
    after = {"list_runs", "collect", "tables", "figures", "report", "wandb", "all", "total"}
    assert set(planned) == {"train", "measure", *after}, planned
    assert (planned["train"], planned["measure"]) == (1, 1), planned

    # `lomo plan` was killed: there are no estimates, and the study is not complete.
    (copy / "config/tiny.yaml").write_text(original)
    (copy / results / "estimates.json").unlink()
    assert set(jobs_of(copy)) == {"tables", "report", "all", "total"}
    output = run(copy)
    assert "study mini is complete" in output and (copy / results / "estimates.json").is_file()
    table = (copy / results / "tables/table_prediction.md").read_text()
    assert "Nothing to compare" not in table and "equal to the byte" in table
    assert "Nothing to be done" in run(copy, "-n")


def test_a_touched_comment_plans_nothing(checkout: Path) -> None:
    for name in ("lomo/optim/lomo.py", "lomo/run/train.py", "Snakefile"):
        path = checkout / name
        path.write_text(path.read_text() + "\n# a comment\n")
    assert "Nothing to be done" in run(checkout, "-n")


def test_an_edited_update_rule_plans_exactly_its_runs(checkout: Path) -> None:
    path = checkout / "lomo/optim/lomo.py"
    original = path.read_text()
    path.write_text(original.replace("alpha=-lr * scale)", "alpha=-lr * scale * 1.0)"))
    assert path.read_text() != original
    planned = jobs_of(checkout)
    path.write_text(original)
    assert (planned["train"], planned["measure"]) == (1, 1), planned
    assert "pretrain" not in planned and "generate" not in planned


def test_a_second_snakemake_on_the_same_study_is_refused(checkout: Path) -> None:
    page = checkout / "results/mini/report/index.html"
    before = page.stat().st_mtime_ns
    with hold(checkout / "results/mini/.lock"):
        output = run(checkout, "--forcerun", "report", exit_code=2)
    assert "another snakemake is working on this study" in output
    assert page.stat().st_mtime_ns == before
