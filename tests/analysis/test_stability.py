"""Verdicts of each three seeds of a study, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic

from analysis.cli import main
from analysis.records.collected import Collected, load
from analysis.verdicts.stability import NEVER, PARTLY, SAME, TURNED, table_stability
from lomo.errors import UserError
from lomo.system.strict import read_yaml

TASKS = ["rte", "boolq", "multirc"]
# By method, of seeds 1 to 3 and of seeds 4 to 6.
REACHED = {
    "zero_shot": (0.50, 0.50),
    "lora-r2": (0.70, 0.70),
    "adamw": (0.90, 0.70),
    "sgd": (0.95, 0.96),
    "lomo": (0.80, 0.90),
}


def _reached(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
    spec = record["spec"]
    values = REACHED[run_id.split("/")[2]]
    value = values[spec["seed"] > 3] + 0.01 * (spec["seed"] % 3)
    changed = [evaluation | {"value": round(value, 2)} for evaluation in record["evaluations"]]
    return record | {"evaluations": changed, "result": changed[-1]}


def _collected(folder: Path, seeds: list[int]) -> Collected:
    study = synthetic.study_dict()
    methods = ["zero_shot", "lora", "adamw", "sgd", "lomo"]
    study["superglue"] |= {"methods": methods, "tasks": TASKS, "grids": {}, "seeds": seeds}
    for section in ("memory", "throughput", "lora_rank"):
        study.pop(section, None)
    synthetic.write_results(folder, synthetic.plan_of(study), _reached)
    synthetic.collect_unquestioned(folder)
    return load(folder)


def test_what_turns_round_is_told_from_what_stays(tmp_path: Path) -> None:
    table = table_stability([_collected(tmp_path, [1, 2, 3, 4, 5, 6])])
    over_all = dict(zip(table.data["order"], table.data["over_all"], strict=True))
    assert over_all["SGD above LOMO"] == SAME
    assert over_all["AdamW above LOMO"] == TURNED
    assert over_all["LoRA above AdamW"] == PARTLY  # equal with seeds 4 to 6
    assert over_all["Mean accuracy, LOMO at least LoRA"] == SAME
    row = next(row for row in table.blocks[0].cells() if row[0].text == "AdamW above LOMO")
    assert [cell.bold for cell in row[1:]] == [True, True, True]
    assert [cell.text for cell in row[1:3]] == ["+10.0", "\N{MINUS SIGN}20.0"]
    assert f"1 {TURNED}" in table.caption and f"0 {NEVER}" in table.caption


def test_seeds_that_make_no_third_part_are_left(tmp_path: Path) -> None:
    table = table_stability([_collected(tmp_path, [1, 2, 3, 4])])
    assert list(table.blocks[0].columns)[1:-1] == ["AVX2, 1 to 3"]


def test_the_command_writes_the_table_of_several_studies(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("here", "there")]
    for folder in folders:
        _collected(folder, [1, 2, 3])
    out = tmp_path / "out"
    given = ["stability", "--results", *map(str, folders), "--out", str(out)]
    assert main(given) == 0
    head = (out / "stability.csv").read_text().splitlines()[0]
    assert head == "order,part,said,difference,over_all"
    assert (out / "stability.md").read_text().count("AVX2, 1 to 3") == 2


def test_two_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 seeds"):
        table_stability([_collected(tmp_path, [1, 2])])


def test_the_study_is_the_default_study_with_more_seeds() -> None:
    default, stability = (read_yaml(Path(f"config/{name}.yaml")) for name in ("tiny", "stability"))
    seeds = stability["superglue"].pop("seeds")
    assert len(seeds) == 15 and not {42, 43, 44} & set(seeds)
    for key in ("data", "generated", "protocol", "superglue"):
        assert stability[key] == default[key], key
