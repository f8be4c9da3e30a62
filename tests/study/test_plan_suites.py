"""Section `suites` in a plan: its runs, their folders, and what is refused of HumanEval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lomo.contained import probe
from lomo.errors import UserError
from lomo.study.config import Study
from lomo.study.plan import Plan, make_plan
from lomo.study.suites.plan import MINIATURE_FILES, suite_files
from lomo.tasks.miniature.suite import write_suite


def plan_of(study: dict[str, Any]) -> Plan:
    return make_plan(Study.model_validate(study), source="study.yaml")


def test_a_base_model_of_each_seed_is_scored_on_each_suite() -> None:
    suites = {"models": ["tiny-s"], "data": "generated", "tasks": {"miniature": {"limit": 3}}}
    plan = plan_of({"study": "s", "title": "t", "data": "generated", "suites": suites})
    assert plan.runs == {} and plan.sections == {}
    assert list(plan.suites) == [f"suite/tiny-s/base/miniature/s{seed}" for seed in (42, 43, 44)]
    run = plan.suites["suite/tiny-s/base/miniature/s43"]
    assert run.model_path == "results/s/models/tiny-s/s43" and run.limit == 3
    assert run.data_path == "results/s/data/suites"
    assert plan.bases() == {f"results/s/models/tiny-s/s{s}": ("tiny-s", s) for s in (42, 43, 44)}
    assert suite_files(run) == [f"results/s/data/suites/{file}" for file in MINIATURE_FILES]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_plan_knows_the_files_that_the_generator_writes(tmp_path: Path) -> None:
    write_suite(tmp_path / "miniature", seed=0)
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.csv")}
    assert written == set(MINIATURE_FILES)


def test_a_suite_leaves_the_other_runs_as_they_are(study_dict: dict[str, Any]) -> None:
    before = plan_of(study_dict)
    study_dict["suites"] = {
        "models": study_dict["superglue"]["models"],
        "data": "hub",
        "tasks": {"arc_easy": {"limit": 100}, "mmlu": {"num_fewshot": 5}},
    }
    after = plan_of(study_dict)
    assert (after.runs, after.sections) == (before.runs, before.sections)
    assert {run.task: run.data_path for run in after.suites.values()} == {
        "arc_easy": "hub",
        "mmlu": "hub",
    }
    assert [suite_files(run) for run in after.suites.values()] == [[], []]


def test_models_that_instruct_saves_are_scored_beside_their_base(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    items = [{"instruction": f"Say {n}.", "output": f"{n}."} for n in range(60)]
    (tmp_path / "items.json").write_text(json.dumps(items))
    models = study_dict["superglue"]["models"]
    instruct: dict[str, Any] = {
        "models": models,
        "methods": ["zero_shot", "lora", "lomo"],
        "data": str(tmp_path / "items.json"),
        "seeds": [1, 2, 3],
        "save": True,
        "settings": {"num_train": 16, "num_dev": 8, "num_test": 8, "max_length": 64},
    }
    suites = {"models": models, "data": "hub", "tasks": {"arc_easy": {}}}
    study = {"study": "unit", "title": "t", "data": "generated"}
    study |= {"instruct": instruct, "suites": suites}
    plan = plan_of(study)
    model = Path(models[0]).name
    tuned = {run.run_id: run for run in plan.suites.values() if run.method != "base"}
    assert [(run.method, run.seed) for run in tuned.values()] == [
        (method, seed) for method in ("lora", "lomo") for seed in (1, 2, 3)
    ]
    run = tuned[f"suite/{model}/lora-r2/arc_easy/s2"]
    assert run.model_path == f"results/unit/tuned/{model}/lora-r2/s2/t0"
    assert len(plan.suites) == len(tuned) + 1
    instruct["save"] = False
    assert list(plan_of(study).suites) == [f"suite/{model}/base/arc_easy"]
    instruct |= {"save": True, "grids": {"lomo": {"learning_rate": [0.1, 0.2]}}}
    study["budget"] = "unequal"
    with pytest.raises(UserError, match="saves 2 models of lomo for each seed"):
        plan_of(study)


def test_humaneval_is_refused_where_nothing_contains_it(
    study_dict: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "humaneval").mkdir()
    problem = {
        "task_id": "Own/0",
        "prompt": 'def half(x):\n    """Half of x."""\n',
        "entry_point": "half",
        "canonical_solution": "    return x / 2\n",
        "test": "def check(candidate):\n    assert candidate(3) == 1.5\n",
    }
    (tmp_path / "humaneval/HumanEval.jsonl").write_text(json.dumps(problem) + "\n")
    study_dict["suites"] = {
        "models": study_dict["superglue"]["models"],
        "data": str(tmp_path),
        "tasks": {"humaneval": {"max_gen_toks": 8}},
    }
    monkeypatch.setattr(probe, "cannot_contain", lambda: None)
    assert [run.task for run in plan_of(study_dict).suites.values()] == ["humaneval"]
    monkeypatch.setattr(probe, "cannot_contain", lambda: "bubblewrap is not installed")
    with pytest.raises(UserError) as refused:
        plan_of(study_dict)
    assert str(refused.value).startswith("study.yaml: suites.humaneval: code that a model")
    assert "bubblewrap is not installed" in str(refused.value)
    assert "it is not run uncontained" in str(refused.value)
