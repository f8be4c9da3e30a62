"""The instruct section: its runs, what a protocol makes of them, and what a plan says they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.forecast.duration import _mean_tokens
from lomo.specs import InstructSpec, TaskSpec
from lomo.study.config import Study
from lomo.study.inputs import ALPACA, instruct_file
from lomo.study.plan import Plan, make_plan, read_spec


def planned(study: dict[str, Any], **changes: Any) -> Plan:
    given = {**study, "instruct": {**study["instruct"], **changes}}
    return make_plan(Study.model_validate(given), source="unit.yaml")


def specs_of(plan: Plan) -> list[InstructSpec]:
    assert all(isinstance(spec, InstructSpec) for spec in plan.runs.values())
    return list(plan.runs.values())  # type: ignore[arg-type]


def test_a_run_is_told_everything(instruct_dict: dict[str, Any]) -> None:
    plan = planned(instruct_dict, methods=["zero_shot", "lora"], ranks=[1, 4])
    assert list(plan.runs) == [
        "instruct/test/zero_shot/s42/t0",
        *(f"instruct/test/lora-r{rank}/s{seed}/t0" for rank in (1, 4) for seed in (42, 43, 44)),
    ]
    assert plan.sections == {"instruct": list(plan.runs)}
    for spec in specs_of(plan):
        assert spec.model_dump().items() >= instruct_dict["instruct"]["settings"].items()
        assert spec.data_path == instruct_dict["instruct"]["data"]
        assert spec.tuned_path is None and spec.selection == "dev"
        again = read_spec(json.loads(spec.model_dump_json()), where="a file")
        assert type(again) is InstructSpec and again == spec
    back = Plan.model_validate_json(plan.model_dump_json())
    assert back == plan


def test_the_papers_way_holds_nothing_back(instruct_dict: dict[str, Any]) -> None:
    plan = planned({**instruct_dict, "protocol": "paper"})
    assert {(spec.num_dev, spec.selection) for spec in specs_of(plan)} == {(0, "test")}


def test_defaults_are_those_of_adalomos_code(instruct_dict: dict[str, Any]) -> None:
    section = Study.model_validate(
        {**instruct_dict, "instruct": {**instruct_dict["instruct"], "settings": {}}}
    ).instruct
    assert section is not None
    given = section.settings
    assert (given.epochs, given.batch_size, given.max_length) == (3, 128, 2048)
    assert given.schedule == "linear"


def test_the_hubs_data_is_fetched_and_needs_no_file_for_a_plan(
    instruct_dict: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(instruct_dict, data="alpaca")
    assert {spec.data_path for spec in specs_of(plan)} == {ALPACA}
    assert plan.study.instruct is not None and instruct_file(plan.study.instruct) == ALPACA


def test_it_stands_beside_a_section_of_tasks(
    instruct_dict: dict[str, Any], study_dict: dict[str, Any]
) -> None:
    plan = planned({**study_dict, "instruct": instruct_dict["instruct"]})
    kinds = {type(spec) for spec in plan.runs.values()}
    assert {TaskSpec, InstructSpec} <= kinds
    assert plan.study.data != "generated"


def test_a_study_has_three_seeds_and_equal_budgets_here_too(
    instruct_dict: dict[str, Any],
) -> None:
    with pytest.raises(UserError, match="1 seed under protocol: sound"):
        planned(instruct_dict, seeds=[1])
    with pytest.raises(UserError, match="unequal numbers of trials"):
        planned(instruct_dict, grids={"sgd": {"learning_rate": [0.1, 0.2]}})


def test_a_plan_tells_the_length_of_the_files_own_items(
    instruct_dict: dict[str, Any], tmp_path: Path
) -> None:
    """Four characters a token, template and answer together."""
    file = tmp_path / "items.json"
    items = [{"instruction": f"{i:03}" * 100, "output": "x" * 1000} for i in range(20)]
    file.write_text(json.dumps(items))
    (spec, *_) = specs_of(planned(instruct_dict, data=str(file)))
    template = len(
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n\n\n### Response:"
    )
    assert _mean_tokens(spec) == (template + 300 + 1000) // 4
