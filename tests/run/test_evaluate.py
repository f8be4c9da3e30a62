"""What is kept of each scored example."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lomo.record.belief import doubts
from lomo.record.clock import Clock
from lomo.run.evaluate import _per_example
from lomo.run.execute import execute
from lomo.specs import TrainSpec
from lomo.study.config import Study
from lomo.study.plan import make_plan
from lomo.tasks.superglue import TASKS, split_documents

TOKENS = {number: [1, 1] for number in range(5)}


def sample(number: int, passage: str) -> dict[str, Any]:
    likelihoods = [[(-1.0, True)], [(-2.0, False)]]
    return {
        **{"doc_id": number, "target": 0, "metrics": ["acc"], "acc": 1.0},
        **{"doc": {"paragraph": passage}, "filtered_resps": [each[0] for each in likelihoods]},
    }


def test_examples_of_one_passage_have_one_number() -> None:
    passages = ["a", "b", "a", "c", "b"]
    samples = [sample(number, passage) for number, passage in enumerate(passages)]
    # lm-eval gives them in any order.
    kept = _per_example(samples[::-1], TOKENS, TASKS["multirc"].together)
    assert [each["doc_id"] for each in kept] == [0, 1, 2, 3, 4]
    assert [each["group"] for each in kept] == [0, 1, 0, 2, 1]
    assert (kept[0]["doc_id"], kept[0]["label"], kept[0]["acc"]) == (0, 0, 1.0)


def test_other_tasks_have_no_groups() -> None:
    assert TASKS["rte"].together is None
    assert "group" not in _per_example([sample(0, "a")], TOKENS, None)[0]


def test_a_run_on_multirc_tells_which_of_its_examples_share_a_paragraph(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    study_dict["superglue"] |= {"tasks": ["multirc"], "methods": ["zero_shot"]}
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    spec = next(s for s in plan.runs.values() if isinstance(s, TrainSpec))
    record = execute(spec, tmp_path, Clock())
    assert record.status == "ok" and doubts(record, spec, tmp_path) == []
    kept = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    documents = split_documents(
        Path(spec.data_path),
        "multirc",
        **{name: getattr(spec, name) for name in ("num_train", "num_dev", "num_test")},
        seed=spec.sample_seed,
    )["test"]
    passages = {each["group"]: documents[each["doc_id"]]["paragraph"] for each in kept}
    assert all(documents[each["doc_id"]]["paragraph"] == passages[each["group"]] for each in kept)
    assert len(set(passages.values())) == len(passages)
