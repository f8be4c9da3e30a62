"""A made-up study whose data is there, so that each of its examples can be told with its text."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import synthetic

from analysis.cli import main
from lomo.record import made
from lomo.study.config import Generated
from lomo.tasks.miniature.superglue import write_superglue

FIRST = {"RTE": "entailment", "COPA": 0}  # what stands for label 0 in the task's file


def study(**changes: Any) -> dict[str, Any]:
    """Two tasks and two methods over three seeds; nothing is measured."""
    given = synthetic.study_dict()
    asked: dict[str, Any] = {
        "methods": ["zero_shot", "lomo"],
        "tasks": ["rte", "copa"],
        "seeds": [42, 43, 44],
    }
    for section in ("lora_rank", "memory", "throughput"):
        given.pop(section)
    asked["grids"] = {"lomo": given["superglue"]["grids"]["lomo"]}
    return given | {"superglue": given["superglue"] | asked} | changes


def write_data(folder: Path, setting: Generated) -> None:
    """The two tasks, with labels in turn, as made-up samples have them."""
    write_superglue(folder, seed=setting.seed, num_train=setting.num_train, num_val=setting.num_val)
    for name, first in FIRST.items():
        path = folder / name / "val.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines()
        zeros = [line for line in lines if json.loads(line)["label"] == first]
        ones = [line for line in lines if json.loads(line)["label"] != first]
        pairs = zip(zeros, ones, strict=True)
        path.write_text("".join(f"{zero}\n{one}\n" for zero, one in pairs), encoding="utf-8")
    made.note_folder(folder, spec=setting.model_dump(mode="json"), code="made up")


def written(results: Path, given: dict[str, Any], change: synthetic.Change | None = None) -> Path:
    """The collected study in `results`, with the data that its samples are of."""
    plan = synthetic.plan_of(given)
    synthetic.write_results(results, plan, change)
    if plan.study.data == "generated":
        write_data(results / "data" / "superglue", plan.study.generated)
    assert main(["collect", "--results", str(results)]) == 0
    return results


def schema(name: str) -> dict[str, Any]:
    """The format's own, out of its package: it is data there, and nothing is imported."""
    found = find_spec("every_eval_ever")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs the package every-eval-ever (.ci/run installs it)")
    path = Path(found.submodule_search_locations[0], "schemas", f"{name}.schema.json")
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data
