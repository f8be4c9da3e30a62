"""Predicted beside measured: what is equal says so, what differs is told with its size."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from analysis.cli import main
from analysis.records.collected import load
from analysis.tables.prediction import pairs, table_prediction
from lomo.errors import UserError
from lomo.forecast.estimates import Estimate, Estimates
from lomo.record.schema import read_record
from lomo.study.machine import GIB, Machine, Speed
from lomo.study.plan import read_plan
from lomo.system.files import write_text

FAILED = "measure/small/adamw"


def built_with(results: Path, factors: dict[str, float]) -> tuple[str, pd.DataFrame]:
    """The table of made-up records whose predictions are the measured peaks times a factor."""
    synthetic.write_results(results, synthetic.plan_of(synthetic.study_dict()))
    plan = read_plan(results)
    runs = {}
    for run_id in plan.runs:
        memory = read_record(results / "runs" / run_id / "record.json").memory
        method = plan.runs[run_id].method
        peak = int(memory.peak_bytes * factors.get(method, 1.0)) if memory else GIB
        runs[run_id] = Estimate(
            **{"peak_bytes": peak, "account": "simulated", "fit": "fits"},
            **{"host_bytes": 1, "seconds": 1.0, "kept_bytes": 0},
        )
    machine = Machine(
        **{"kind": "cpu", "name": "CPU", "num_devices": 1, "origin": "found"},
        **{"device_bytes": GIB, "host_bytes": GIB},
    )
    speed = Speed(flops_per_s={}, source="a test")
    found = Estimates(machine=machine, speed=speed, download_bytes=0, runs=runs)
    write_text(results / "estimates.json", found.model_dump_json())
    assert main(["collect", "--results", str(results)]) == 0
    assert main(["table", "--results", str(results), "--which", "prediction"]) == 0
    tables = results / "tables"
    return (tables / "table_prediction.md").read_text(), pd.read_csv(
        tables / "table_prediction.csv"
    )


def test_equal_predictions_say_so(tmp_path: Path) -> None:
    text, data = built_with(tmp_path / "made-up", {})
    assert f"{len(data)} of {len(data)} predictions are equal to the byte" in text
    assert "median within 1%: met" in text
    assert (data["difference"] == 0).all() and not data["run_id"].str.startswith("train").any()


def test_a_difference_is_of_the_prediction_over_the_measured_peak(tmp_path: Path) -> None:
    text, data = built_with(tmp_path / "made-up", {"lomo": 1.05})
    of = data.set_index("run_id")["difference"]
    lomo = of[of.index.str.contains("/lomo/")]
    assert lomo.to_numpy() == pytest.approx(0.05, abs=1e-6)
    assert (of.drop(lomo.index) == 0).all()
    assert "the largest difference is 5.00 %, the median 0.00 %" in text and ": missed" in text


def test_a_study_without_estimates_compares_nothing(built: Path) -> None:
    text = (built / "tables" / "table_prediction.md").read_text()
    assert "Nothing to compare: estimates.json is not there" in text
    assert "the next start of the pipeline makes it again" in text


def test_an_empty_table_says_why(tmp_path: Path) -> None:
    study = synthetic.study_dict()
    for section in ("memory", "throughput", "lora_rank"):
        study.pop(section)
    synthetic.write_results(tmp_path, synthetic.plan_of(study), lambda *_: None)
    assert main(["collect", "--results", str(tmp_path)]) == 0
    assert table_prediction(load(tmp_path)).caption.endswith("the study measures nothing.")
    other = tmp_path / "other"
    built_with(other, {})
    estimates = json.loads((other / "estimates.json").read_text())
    (other / "estimates.json").write_text(json.dumps(estimates | {"runs": {}}))
    assert "holds none of the study's measured runs" in table_prediction(load(other)).caption
    null = {"peak_bytes": None, "account": None, "reason": "made up"}
    runs = {run_id: run | null for run_id, run in estimates["runs"].items()}
    (other / "estimates.json").write_text(json.dumps(estimates | {"runs": runs}))
    assert "could be predicted (made up)" in table_prediction(load(other)).caption


def test_broken_estimates_are_a_clear_error(tmp_path: Path) -> None:
    results = tmp_path / "made-up"
    built_with(results, {})
    (results / "estimates.json").write_text("{")
    assert main(["table", "--results", str(results), "--which", "prediction"]) == 2
    with pytest.raises(UserError):
        pairs(load(results))
