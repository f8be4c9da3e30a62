"""The rounding section: each method under each treatment that it honours, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lomo.errors import UserError
from lomo.study.config import Study
from lomo.study.plan import Plan, make_plan
from lomo.study.trials import why_not_treated


def planned(study: dict[str, Any], **changes: Any) -> Plan:
    settings = {k: v for k, v in study["superglue"]["settings"].items() if k != "dtype"}
    section = {**study["superglue"], "settings": settings, "methods": ["sgd", "lomo"], **changes}
    given = {k: v for k, v in study.items() if k not in ("superglue", "memory")}
    return make_plan(Study.model_validate(given | {"rounding": section}), source="unit.yaml")


def test_runs_of_a_method_differ_in_dtype_and_rounding_alone(study_dict: dict[str, Any]) -> None:
    grids = {method: {"learning_rate": [0.1, 0.2]} for method in ("sgd", "lomo")}
    plan = planned(study_dict, grids=grids, seeds=[1, 2, 3])
    found = {
        run_id.split("/")[2]: (s.dtype, s.hyper.get("rounding")) for run_id, s in plan.runs.items()
    }
    assert found == {
        "sgd-float32": ("float32", None),
        "sgd-bfloat16": ("bfloat16", None),
        "lomo-float32": ("float32", "nearest"),
        "lomo-bfloat16": ("bfloat16", "nearest"),
        "lomo-bfloat16_stochastic": ("bfloat16", "stochastic"),
        "lomo-float16": ("float16", "nearest"),
    }
    assert len(plan.runs) == (2 + 4) * 2 * 3
    assert plan.sections == {"rounding": list(plan.runs)}
    rest = {"run_id", "dtype", "hyper", "trial"}
    of_lomo = [
        s.model_dump(exclude=rest) for s in plan.runs.values() if s.method == "lomo" and s.seed == 1
    ]
    assert all(spec == of_lomo[0] for spec in of_lomo)


def test_a_search_is_of_the_methods_that_a_treatment_has(study_dict: dict[str, Any]) -> None:
    """The same points in each treatment."""
    ranges = {method: {"learning_rate": [0.01, 1.0]} for method in ("sgd", "lomo")}
    plan = planned(study_dict, grids={}, search={"trials": 2, "ranges": ranges})
    rates: dict[str, set[float]] = {}
    for run_id, spec in plan.runs.items():
        rates.setdefault(run_id.split("/")[2], set()).add(float(spec.hyper["learning_rate"]))
    assert len(rates) == 6 and all(found == rates["lomo-float32"] for found in rates.values())
    assert len(rates["lomo-float32"]) == 2


def test_what_a_method_does_not_honour_has_a_reason() -> None:
    assert why_not_treated("sgd", "bfloat16") is None
    assert why_not_treated("lomo", "bfloat16_stochastic") is None
    assert why_not_treated("sgd", "bfloat16_stochastic") == "no such setting"
    assert "scale the loss" in str(why_not_treated("adamw", "float16"))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"methods": ["sgd"], "treatments": ["float32", "float16"]}, "no method of the section"),
        ({"settings": {"dtype": "bfloat16"}}, "the treatments say it"),
        ({"methods": ["sgdd"]}, "sgdd"),
    ],
)
def test_what_can_not_be_is_refused(
    changes: dict[str, Any], what: str, study_dict: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=what):
        planned(study_dict, **changes)
