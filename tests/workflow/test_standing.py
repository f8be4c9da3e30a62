"""What stands and is not of the present plan or code is found without Snakemake's metadata."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from analysis.cli import main
from lomo import cli
from lomo.forecast.command import Planning
from lomo.model.registry import ModelEntry
from lomo.pipeline import standing
from lomo.record import made
from lomo.record.clock import Clock
from lomo.run.execute import execute
from lomo.study.config import Study
from lomo.study.plan import Plan, make_plan

RUNS = {"train": "lomo", "measure": "sgd"}


def planned(study: dict[str, Any], **changes: Any) -> Plan:
    return make_plan(Study.model_validate({**study, **changes}), source="unit.yaml")


def small(study: dict[str, Any]) -> dict[str, Any]:
    """One run that trains, for one epoch, and one that measures."""
    settings = {**study["superglue"]["settings"], "epochs": 1, "num_train": 8}
    accuracy = {**study["superglue"], "methods": [RUNS["train"]], "settings": settings}
    memory = {**study["memory"], "methods": [RUNS["measure"]], "activation_checkpointing": [False]}
    return {**study, "protocol": "paper", "superglue": accuracy, "memory": memory}


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, unit_study: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """A study's folder with all that the pipeline makes, and the study."""
    study = small(unit_study)
    results = tmp_path_factory.mktemp("whole") / "results" / "unit"
    plan = planned(study)
    made.write_text(results / "plan.json", standing.plan_text(plan))
    for run_id, spec in plan.runs.items():
        execute(spec, results / "runs" / run_id, Clock())
    runs = {run_id: {"peak_bytes": 1} for run_id in plan.runs}
    (results / "estimates.json").write_text(json.dumps({"runs": runs}))
    assert main(["collect", "--results", str(results)]) == 0
    for name in ("tables/table1.csv", "figures/fig1.svg", "report/index.html"):
        made.write_text(results / name, "made")
    for command in ("table", "figure", "report"):
        sources = made.Sources(results, plan).of(command)
        code = standing.fingerprint("analysis")
        made.note(made.page(results, command), **sources, code=code)
    return results, study


@pytest.fixture
def results(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of it, in which every file is as old as a copy makes it: the inputs the newest."""
    folder = Path(shutil.copytree(whole[0], tmp_path / "unit"))
    for age, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        os.utime(path, (10**9 + age, 10**9 + age))
    return folder


@pytest.fixture
def study(whole: tuple[Path, dict[str, Any]]) -> dict[str, Any]:
    return whole[1]


def id_of(plan: Plan, kind: str) -> str:
    return next(run_id for run_id, spec in plan.runs.items() if spec.kind == kind)


def test_a_copy_of_what_is_whole_stands_whatever_the_times_of_its_files(
    results: Path, study: dict[str, Any]
) -> None:
    found = standing.look(results, planned(study))
    assert (found.rules, found.files, found.reasons) == (set(), set(), [])
    times = {
        place: [path.stat().st_mtime for path in (results / place).rglob("*") if path.is_file()]
        for place in ("tables", "figures", "report")
    }
    records = [path.stat().st_mtime for path in results.rglob("record.json")]
    assert min(times["tables"]) >= max(records)
    assert min(times["report"]) >= max(times["tables"] + times["figures"])


def test_a_start_reads_no_record_more_than_twice(
    results: Path, study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To compare it with the plan, and to hash it, for tables and W&B at once."""
    plan = planned(study)
    made.write_text(results / "wandb/published.json", "[]")
    made.note(made.page(results, "wandb"), **made.Sources(results, plan).of("wandb"))
    read: dict[str, int] = {}
    whole_file = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[path.name] = read.get(path.name, 0) + 1
        return whole_file(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    found = standing.look(results, plan)
    assert (found.rules, found.files) == (set(), set())
    assert read["record.json"] == 2 * len(plan.runs)


def test_a_page_is_made_newer_than_what_it_is_made_of(results: Path, study: dict[str, Any]) -> None:
    """Records and tables are in order; the report is older than the tables that it shows."""
    for place, at in (("runs", 1), ("tables", 2), ("figures", 4), ("report", 3)):
        for path in (path for path in (results / place).rglob("*") if path.is_file()):
            os.utime(path, (10**9 + at, 10**9 + at))
    os.utime(results / "plan.json", (10**9, 10**9))
    standing.look(results, planned(study))
    report, tables = results / "report/index.html", results / "tables/table1.csv"
    assert tables.stat().st_mtime == 10**9 + 2 and report.stat().st_mtime > 10**9 + 4


def test_what_was_predicted_is_its_peaks_and_not_the_seconds(tmp_path: Path) -> None:
    def digest(**runs: dict[str, Any]) -> str | None:
        path = tmp_path / "estimates.json"
        path.write_text(json.dumps({"runs": runs}))
        return made.predicted(path)

    before = digest(a={"peak_bytes": 1, "seconds": 2.0}, b={"peak_bytes": None})
    assert digest(b={"peak_bytes": None}, a={"peak_bytes": 1, "seconds": 3.0}) == before
    assert digest(a={"peak_bytes": 2, "seconds": 2.0}, b={"peak_bytes": None}) != before
    assert digest(a={"peak_bytes": 1}, b={"peak_bytes": 0}) != before
    assert digest(a={"peak_bytes": 1}) != before
    assert made.predicted(tmp_path / "none.json") is None


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], set[str]]] = {
    "title": (lambda study: {"title": "another"}, set()),
    "a run more": (
        lambda study: {"memory": {**study["memory"], "methods": ["sgd", "lomo"]}},
        set(),
    ),
    "a section less": (lambda study: {"memory": None}, set()),
    "epochs": (
        lambda study: {
            "superglue": {
                **study["superglue"],
                "settings": {**study["superglue"]["settings"], "epochs": 2},
            }
        },
        {"train"},
    ),
    "steps": (lambda study: {"memory": {**study["memory"], "num_timed_steps": 4}}, {"measure"}),
    "threads": (lambda study: {"num_threads": 2}, {"train", "measure"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_an_edited_study_makes_its_plan_and_the_runs_of_its_edit_again(
    name: str, results: Path, study: dict[str, Any]
) -> None:
    change, kinds = CHANGES[name]
    plan = planned({k: v for k, v in {**study, **change(study)}.items() if v is not None})
    found = standing.look(results, plan)
    assert "list_runs" in found.rules
    ids = {id_of(planned(study), kind) for kind in kinds}
    assert found.files == {f"{results}/runs/{run_id}/record.json" for run_id in ids}
    assert len(found.reasons) >= 1 + bool(kinds)


def test_edited_sources_make_exactly_their_runs_again(
    results: Path, study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = standing.fingerprint_of
    edited = lambda spec: "edited" if spec.method == RUNS["train"] else code(spec)  # noqa: E731
    monkeypatch.setattr(standing, "fingerprint_of", edited)
    found = standing.look(results, planned(study))
    train = id_of(planned(study), "train")
    assert found.files == {f"{results}/runs/{train}/record.json"} and not found.rules
    assert "its record is of other code" in found.reasons[0]


@pytest.mark.parametrize("key", ["study", "run_id", "kind", "spec"])
def test_another_runs_record_is_made_again(key: str, results: Path, study: dict[str, Any]) -> None:
    train, measure = (id_of(planned(study), kind) for kind in ("train", "measure"))
    path = results / "runs" / train / "record.json"
    record = json.loads(path.read_text())
    record[key] = {**record["spec"], "epochs": 99} if key == "spec" else "other"
    path.write_text(json.dumps(record))
    assert standing.look(results, planned(study)).files == {path.as_posix()}
    shutil.copy(results / "runs" / measure / "record.json", path)
    assert standing.look(results, planned(study)).files == {path.as_posix()}


BESIDE = [("train", "samples.jsonl"), ("train", "history.jsonl")]
BESIDE += [("measure", "history.jsonl"), ("measure", "timeline.jsonl")]


@pytest.mark.parametrize(("kind", "name"), BESIDE)
def test_a_run_whose_evidence_is_gone_is_done_again(
    kind: str, name: str, results: Path, study: dict[str, Any]
) -> None:
    run_id = id_of(planned(study), kind)
    (results / "runs" / run_id / name).unlink()
    found = standing.look(results, planned(study))
    assert found.files == {f"{results}/runs/{run_id}/record.json"}
    assert f"{name} beside its record is gone" in found.reasons[0]


def test_estimates_that_were_never_made_are_made_with_their_table(
    results: Path, study: dict[str, Any]
) -> None:
    (results / "estimates.json").unlink()
    found = standing.look(results, planned(study))
    assert found.unestimated and found.rules == {"tables"} and not found.files
    # Another run's are not this study's.
    (results / "estimates.json").write_text('{"runs": {"another": {"peak_bytes": 1}}}')
    assert standing.look(results, planned(study)).unestimated


def test_a_plan_that_was_killed_says_that_it_is_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed:
        def wait(self) -> int:
            return -9

    estimates = tmp_path / "estimates.json"
    estimates.write_text("{")
    log = tmp_path / "log"
    log.write_text("")
    Planning(Killed(), log, estimates, needs_the_hub=True).finish()  # type: ignore[arg-type]
    assert not estimates.exists() and "the next start tries again" in capsys.readouterr().err


EDITS: dict[str, tuple[str, str]] = {
    "an edited record": ("runs/{train}/record.json", "collect"),
    "an edited collected table": ("tables/records.csv", "tables"),
    "lost notes of the tables": (".made/table.json", "tables"),
    "lost notes of the figures": (".made/figure.json", "figures"),
    "lost notes of the report": (".made/report.json", "report"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_was_made_of_something_else_is_made_again(
    name: str, results: Path, study: dict[str, Any]
) -> None:
    place, rule = EDITS[name]
    path = results / place.format(train=id_of(planned(study), "train"))
    if path.suffix == ".json" and "record" in path.name:
        path.write_text(path.read_text().replace('"value": ', '"value":  '))
    elif path.suffix == ".csv":
        path.write_text(path.read_text() + "\n")
    else:
        path.unlink()
    assert standing.look(results, planned(study)).rules == {rule}


def test_edited_code_of_the_tables_makes_them_again_and_no_run(
    results: Path, study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "fingerprint", lambda *_: "edited")
    found = standing.look(results, planned(study))
    assert found.rules == {"collect"} and not found.files


def test_predictions_of_which_one_is_gone_are_made_again(
    results: Path, study: dict[str, Any]
) -> None:
    plan, folder = planned(study), results / "predictions"
    made.write_text(folder / "a.json", "{}")
    made.write_text(folder / "index.json", '["a"]')
    assert "predictions" in standing.look(results, plan).rules
    made.note(made.page(results, "predictions"), code=standing.predicting_code(plan))
    assert "predictions" not in standing.look(results, plan).rules
    (folder / "a.json").unlink()
    assert "predictions" in standing.look(results, plan).rules


def test_generated_data_and_weights_tell_what_they_were_made_from(
    tmp_path: Path, study: dict[str, Any], model_folder: Path
) -> None:
    results = tmp_path / "unit"
    generated = {**study, "data": "generated", "generated": {"num_train": 40, "num_val": 10}}
    plan = planned(generated)
    asked = plan.study.generated.model_dump_json()
    data = results / "data"
    command = ["data", "--spec", asked, "--out", str(data / "superglue")]
    assert cli.main([*command, "--text", str(data / "text.txt")]) == 0
    assert not standing.look(results, plan).rules
    other = planned({**generated, "generated": {"num_train": 41, "num_val": 10}})
    assert standing.look(results, other).rules == {"generate"}

    entry = ModelEntry(
        **{"name": "own", "weights": "pretrain", "architecture": {"model_type": "llama"}},
        pretrain={"num_steps": 5, "batch_size": 4, "sequence_length": 32, "learning_rate": 0.003},
    )
    weights = Path(shutil.copytree(model_folder, results / "models" / "own" / "s43"))
    spec = next(spec for spec in plan.runs.values() if spec.kind == "train")
    changes = {"model": "own", "model_path": "results/unit/models/own/s43", "seed": 43}
    runs = {"train/a/b/c/s43/t0": spec.model_copy(update=changes)}
    with_model = plan.model_copy(update={"models": {"own": entry}, "runs": runs})
    file = f"{weights}/model.safetensors"
    assert standing.look(results, with_model).files == {file}
    spec, code = entry.model_dump(mode="json"), standing.fingerprint("pretrain")
    made.note_folder(weights, spec=spec, seed=42, code=code)
    assert standing.look(results, with_model).files == {file}, "the base of another seed"
    made.note_folder(weights, spec=spec, seed=43, code=code)
    assert not standing.look(results, with_model).files
    edited = entry.model_copy(update={"architecture": {"model_type": "llama", "hidden_size": 8}})
    with_other = with_model.model_copy(update={"models": {"own": edited}})
    assert standing.look(results, with_other).files == {file}


def test_a_folders_note_is_no_part_of_what_it_tells(tmp_path: Path) -> None:
    made.write_text(tmp_path / "a" / "val.jsonl", "{}")
    made.note_folder(tmp_path, code="x")
    told = made.made_from(tmp_path / made.NAME, code="x")
    assert told is not None and told.content == made.digest(made.files_in(tmp_path))


def test_a_run_from_before_its_data_is_done_again(
    results: Path, study: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(study)
    train = id_of(plan, "train")
    path = results / "runs" / train / "record.json"
    began = standing._started(json.loads(path.read_text()))
    for late, again in ((0, set()), (100, set()), (140, {path.as_posix()})):
        newest = {"data": began + timedelta(seconds=late)}
        monkeypatch.setattr(standing, "_inputs", lambda *_, newest=newest: newest.items())
        found = standing.look(results, plan)
        assert found.files & {path.as_posix()} == again, late


def test_an_architecture_is_its_own_note(tmp_path: Path, study: dict[str, Any]) -> None:
    results = tmp_path / "unit"
    entry = ModelEntry(name="own", weights="random", architecture={"model_type": "llama"})
    plan = planned(study)
    spec = plan.runs[id_of(plan, "measure")].model_copy(update={"model": "own"})
    plan = plan.model_copy(update={"models": {"own": entry}, "runs": {spec.run_id: spec}})
    path = results / "models" / "own" / "config.json"
    made.write_text(path, json.dumps(standing.random_config(entry)))
    assert not standing.look(results, plan).files
    made.write_text(path, json.dumps({**standing.random_config(entry), "hidden_size": 8}))
    assert standing.look(results, plan).files == {path.as_posix()}

    # A measured run takes of a base model the architecture; how it is trained is no part of that.
    made.write_text(path, json.dumps(standing.random_config(entry)))
    steps = {"num_steps": 5, "batch_size": 4, "sequence_length": 32, "learning_rate": 0.003}
    base = ModelEntry(
        name="own", weights="pretrain", architecture=entry.architecture, pretrain=steps
    )
    of_base = plan.model_copy(update={"models": {"own": base}})
    assert not standing.look(results, of_base).files
    made.write_text(path, json.dumps({"model_type": "llama"}))  # of a folder with trained weights
    assert standing.look(results, of_base).files == {path.as_posix()}
