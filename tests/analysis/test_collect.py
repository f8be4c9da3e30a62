from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from analysis.cli import main
from analysis.records.collect import COLUMNS, collect
from lomo.errors import UserError
from lomo.record.schema import SCHEMA_VERSION
from lomo.specs import TrainSpec
from lomo.study.plan import Plan


def small_plan() -> Plan:
    study = synthetic.study_dict()
    for section in ("superglue", "lora_rank", "throughput"):
        study.pop(section)
    return synthetic.plan_of(study)


def test_one_row_a_planned_run_with_its_bytes_whole(built: Path) -> None:
    frame = pd.read_parquet(built / "tables" / "records.parquet").astype(COLUMNS)
    plan = Plan.model_validate_json((built / "plan.json").read_text())
    assert frame["run_id"].tolist() == list(plan.runs)
    lomo = frame.set_index("run_id").loc["measure/mini/lomo/128x8-bfloat16-plain"]
    record = json.loads((built / "runs" / lomo.name / "record.json").read_text())
    assert lomo["peak_bytes"] == record["memory"]["peak_bytes"]
    assert lomo["at_peak_gradients_bytes"] == record["memory"]["at_peak"]["gradients_bytes"]
    as_text = pd.read_csv(built / "tables" / "records.csv", dtype=str).set_index("run_id")
    assert as_text.loc[lomo.name, "peak_bytes"] == str(record["memory"]["peak_bytes"])


def test_the_dev_accuracy_is_that_of_the_reported_epoch(built: Path) -> None:
    frame = pd.read_parquet(built / "tables" / "records.parquet").set_index("run_id")
    # Each epoch of a made-up run gains 0.03, and its test value is that of its last one.
    row = frame.loc["train/mini/lomo/rte/s42/t0"]
    assert row["dev_accuracy"] == pytest.approx(row["test_accuracy"])


def test_a_missing_record_is_not_run(tmp_path: Path) -> None:
    synthetic.write_results(tmp_path, small_plan(), lambda run_id, record: None)
    assert set(collect(tmp_path)["status"]) == {"not_run"}


def test_two_fingerprints_of_one_method_are_refused(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if "/lomo/" in run_id and run_id.endswith("plain"):
            origin = record["provenance"] | {"fingerprint": "another"}
            return record | {"provenance": origin}
        return record

    synthetic.write_results(tmp_path, small_plan(), change)
    with pytest.raises(UserError, match="different code") as error:
        collect(tmp_path)
    assert "measure/mini/lomo/128x8-bfloat16-plain (another)" in str(error.value)
    assert "run the pipeline again" in str(error.value)


def test_two_sets_of_weights_of_one_model_are_refused(tmp_path: Path) -> None:
    odd = "measure/mini/lomo/128x8-bfloat16-plain"

    def change(run_id: str, record: dict) -> dict:
        if run_id == odd:
            return record | {"model": record["model"] | {"weights_sha256": "1" * 64}}
        return record

    synthetic.write_results(tmp_path, small_plan(), change)
    with pytest.raises(UserError, match="the runs of mini used different weights") as error:
        collect(tmp_path)
    assert f"{odd} (111111111111)" in str(error.value)
    assert "delete the folders of the older runs" in str(error.value)


def test_each_seed_may_have_weights_of_its_own(tmp_path: Path) -> None:
    study = synthetic.study_dict()
    study["superglue"] |= {"methods": ["lomo"], "grids": {}, "tasks": ["rte"], "seeds": [1, 2]}
    study = {k: v for k, v in study.items() if k not in ("lora_rank", "memory", "throughput")}
    plan = synthetic.plan_of(study)
    runs = {
        run_id: spec.model_copy(update={"model_path": f"models/mini/s{spec.seed}"})
        for run_id, spec in plan.runs.items()
        if isinstance(spec, TrainSpec)
    }
    plan = plan.model_copy(update={"runs": runs})

    def change(run_id: str, record: dict) -> dict:
        digest = str(record["spec"]["seed"]) * 64
        return record | {"model": record["model"] | {"weights_sha256": digest}}

    synthetic.write_results(tmp_path, plan, change)
    assert list(collect(tmp_path)["seed"]) == [1, 2]


def test_runs_without_a_model_or_a_weights_file_are_read(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        if "/sgd/" in run_id:
            return synthetic.failed(record, "oom") | {"model": None}
        if "/lomo/" in run_id:
            absent = {"weights_sha256": None, "missing": {"weights_sha256": "random"}}
            return record | {"model": record["model"] | absent}
        return record

    synthetic.write_results(tmp_path, small_plan(), change)
    assert set(collect(tmp_path)["status"]) == {"ok", "oom"}


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    synthetic.write_results(
        tmp_path, small_plan(), lambda run_id, record: record | {"protocol_version": "0.9"}
    )
    with pytest.raises(UserError, match=r"follows protocol 0\.9"):
        collect(tmp_path)


def test_a_record_of_the_other_protocol_is_refused(tmp_path: Path) -> None:
    """A table never mixes them: the spec in the record is not that of the plan."""
    odd = "train/mini/lomo/rte/s42/t0"

    def change(run_id: str, record: dict) -> dict:
        spec = record["spec"] | ({"protocol": "paper"} if run_id == odd else {})
        return record | {"spec": spec}

    study = {k: v for k, v in synthetic.study_dict().items() if k in ("study", "title", "data")}
    section = synthetic.study_dict()["superglue"] | {"methods": ["sgd", "lomo"], "grids": {}}
    plan = synthetic.plan_of(study | {"superglue": section | {"tasks": ["rte"]}})
    synthetic.write_results(tmp_path, plan, change)
    with pytest.raises(UserError, match=r"spec\.protocol is 'paper', the plan says 'sound'"):
        collect(tmp_path)


@pytest.mark.parametrize("spoiled", ["cut", "version"])
def test_a_spoiled_record_exits_with_2(
    spoiled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = small_plan()
    synthetic.write_results(tmp_path, plan)
    path = tmp_path / "runs" / next(iter(plan.runs)) / "record.json"
    text = path.read_text()
    if spoiled == "cut":
        path.write_text(text[: len(text) // 2])
    else:
        path.write_text(text.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    assert main(["collect", "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert str(path) in message
    assert "to mend" in message
    assert not (tmp_path / "tables" / "records.csv").exists()


@pytest.mark.parametrize("command", ["collect", "table", "figure", "report"])
def test_an_empty_folder_exits_with_2(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--results", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_analysis_never_imports_torch(loaded: set[str]) -> None:
    assert "analysis.records.collect" in loaded and "torch" not in loaded
