"""The table and the figure of an ablation, from made-up predictions and records."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import synthetic

from analysis.cli import main
from analysis.figures.ablation import figure_ablation
from analysis.paper.ablation import entries, measured, predicted_beside
from analysis.records.collected import load
from analysis.tables.ablation import table_ablation
from lomo.memory.predicted.study import asked_by
from lomo.specs import AblationSpec
from lomo.study.config import Study
from lomo.study.plan import Plan, make_plan
from lomo.system.files import write_text
from lomo.system.strict import parse

MIB = 2**20
CHANGES = {
    "bf16": {"title": "16-bit weights", "dtype": "bfloat16"},
    "no_state": {"title": "no state", "method": "torch_sgd"},
    "shards": {"title": "sharding", "engine": "fsdp2", "num_devices": 2},
}
# By the run's changes: MiB at the peak, and seconds of a step.
COSTS = {
    **{"base": (40, 0.4), "bf16": (38, 0.2), "no_state": (20, 0.3)},
    **{"bf16-no_state": (10, 0.1), "shards": (21, 0.5)},
}


def plan_of() -> Plan:
    section = {"models": ["llama-33m"], "batch_size": 2, "sequence_length": 16, "changes": CHANGES}
    study = {"study": "made-up", "title": "t", "data": "generated", "device": "cpu"}
    return make_plan(parse(Study, {**study, "ablation": section}, where="t"), source="t")


def parts(mib: int) -> dict[str, int]:
    """Of `mib`: three quarters optimizer state, a quarter parameters."""
    held = {"parameters_bytes": mib // 4 * MIB, "optimizer_state_bytes": 3 * mib // 4 * MIB}
    return {"gradients_bytes": 0, "activations_bytes": 0, "other_bytes": 0, **held}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with the plan and all predictions."""
    return write_predictions(tmp_path)


def write_predictions(folder: Path) -> Path:
    plan = plan_of()
    write_text(folder / "plan.json", plan.model_dump_json())
    asked = asked_by(plan)
    for one in asked:
        assert isinstance(one.spec, AblationSpec)
        mib = COSTS[one.spec.cell][0]
        total = {"total_bytes": mib * MIB}
        ledger = {"peak_bytes": mib * MIB, "at_peak": parts(mib), "sum_of_terms": total}
        made = {
            **{"fingerprint": "0", "section": "ablation", "paper_model": None, "buffers": None},
            **{"spec": one.spec.model_dump(), "reason": None, "account": "simulated"},
            **{"unsupported": None, "wall_s": 1.0, "ledger": ledger},
            "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
        }
        write_text(folder / "predictions" / f"{one.name}.json", json.dumps(made))
    names = json.dumps([one.name for one in asked])
    write_text(folder / "predictions" / "index.json", names)
    return folder


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open() as file:
        return {(row["change"], row["way"]): row for row in csv.DictReader(file)}


def test_a_prediction_is_told_three_ways(results: Path) -> None:
    assert main(["predicted", "--results", str(results)]) == 0
    text = (results / "tables/predicted_ablation.md").read_text()
    # The full stack has no sharding, which torch SGD refuses.
    assert "| + 16-bit weights | 38.00 | 2.00 | 2.00 | 10.00 |" in text
    assert "| + no state | 10.00 | 28.00 | 20.00 | 28.00 |" in text
    assert "| + sharding | \N{EN DASH} | refused (a) | 19.00 | \N{EN DASH} |" in text
    assert "a: fsdp2 can't run torch_sgd" in text
    rows = rows_of(results / "tables/predicted_ablation.csv")
    assert int(rows["no_state", "stacked"]["change_bytes"]) == 28 * MIB
    assert rows["shards", "stacked"]["status"] == "refused"
    assert rows["shards", "stacked"]["peak_bytes"] == ""
    drawn = {path.name for path in (results / "figures").iterdir()}
    assert drawn == {f"predicted_ablation.{end}" for end in ("svg", "pdf", "png")}


def collected_of(results: Path, *, failed: str | None = None) -> Any:
    """Records of the runs; `bf16` takes three bytes more than was predicted."""

    def change(run_id: str, data: dict[str, Any]) -> dict[str, Any] | None:
        cell = run_id.split("/")[-1]
        mib, seconds = COSTS[cell]
        if cell == failed:
            return None
        more = 3 if cell == "bf16" else 0
        at_peak = {**parts(mib), "residual_bytes": 0}
        at_peak["parameters_bytes"] += more
        data["memory"] |= {"peak_bytes": mib * MIB + more, "at_peak": at_peak}
        data["throughput"]["step_s_median"] = seconds
        return data

    synthetic.write_results(results, plan_of(), change)
    synthetic.collect_unquestioned(results)
    return load(results)


def test_a_record_stands_beside_its_prediction(results: Path) -> None:
    text = table_ablation(collected_of(results))
    runs = {str(row[0]): [str(cell) for cell in row] for row in text.blocks[1].rows}
    assert runs["bf16"][1:] == ["38.00", "38.00", "-3 B", "200", "0.50"]
    assert runs["base"][3] == "0 B"
    assert runs["shards"][4:] == ["500", "1.25"]
    first = text.data.set_index(["change", "way"]).loc[("bf16", "alone")]
    assert first["predicted_peak_bytes"] == 38 * MIB
    assert first["time_ratio"] == pytest.approx(0.5)


def test_a_run_without_a_record_is_no_number(results: Path) -> None:
    collected = collected_of(results, failed="bf16")
    found = entries(collected.plan, measured(collected))
    assert found[1].stacked.change_bytes is None
    assert found[2].stacked.change_bytes is None  # nothing to compare it with
    assert found[2].alone.change_bytes == 20 * MIB
    shown = [row[2:] for row in table_ablation(collected).blocks[0].rows]
    dash = "\N{EN DASH}"
    assert shown[1] == [dash, dash, "10.00"] and shown[2] == [dash, "20.00", dash]
    words = [text.get_text().strip() for text in figure_ablation(collected).axes[0].texts]
    assert words == ["40.0", dash, "9.00", "refused"]
    assert "no record yet" in " ".join(table_ablation(collected).notes)


def test_without_predictions_the_records_stand_alone(results: Path) -> None:
    (results / "predictions" / "index.json").unlink()
    collected = collected_of(results)
    assert predicted_beside(results) == {}
    assert table_ablation(collected).blocks[1].rows[0][3] == "\N{EN DASH}"
