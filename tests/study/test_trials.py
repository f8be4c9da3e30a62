"""A search: points as Halton's sequence has them, one budget for all methods."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from scipy.stats import qmc

from lomo.errors import UserError
from lomo.specs import TrainSpec
from lomo.study.config import Search, Study
from lomo.study.plan import Plan, make_plan
from lomo.study.trials import _BASES, radical_inverse, searched

RANGES = {"sgd": {"learning_rate": [0.01, 1.0]}, "lomo": {"learning_rate": [0.001, 10.0]}}


def planned(study: dict[str, Any], **changes: Any) -> Plan:
    section = {"methods": ["zero_shot", "sgd", "lomo"], "search": {"trials": 5, "ranges": RANGES}}
    superglue = {**study["superglue"], **section, **changes}
    rest = {key: value for key, value in study.items() if key != "memory"}
    return make_plan(Study.model_validate({**rest, "superglue": superglue}), source="unit.yaml")


def test_the_sequence_is_haltons() -> None:
    theirs = qmc.Halton(d=len(_BASES), scramble=False).random(51)[1:]
    ours = [[radical_inverse(index, base) for base in _BASES] for index in range(1, 51)]
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_points_lie_evenly_on_a_logarithmic_scale() -> None:
    search = Search(trials=64, seed=3, ranges={"lomo": {"learning_rate": [0.01, 1.0]}})
    rates = [float(point["learning_rate"]) for point in searched("lomo", search)]
    shares = [math.log(rate / 0.01) / math.log(100) for rate in rates]
    assert 0 <= min(shares) and max(shares) <= 1 + 1e-9
    for first in (16, 32, 64):
        parts = Counter(min(int(8 * share), 7) for share in shares[:first])
        assert set(range(8)) == set(parts) and max(parts.values()) <= first // 8 + 1


def test_more_trials_go_on_and_another_seed_has_others() -> None:
    ranges = {"lomo": {"learning_rate": [0.01, 1.0], "warmup_ratio": [0.01, 0.5]}}
    few, many, other = (
        searched("lomo", Search(trials=trials, seed=seed, ranges=ranges))
        for trials, seed in ((4, 0), (9, 0), (4, 1))
    )
    assert many[:4] == few and all(a != b for a, b in zip(few, other, strict=True))
    assert len({str(point) for point in many}) == 9
    assert {name for point in many for name in point} == {"learning_rate", "warmup_ratio"}


def test_each_method_that_is_trained_has_the_budget(study_dict: dict[str, Any]) -> None:
    runs = [run for run in planned(study_dict).runs.values() if isinstance(run, TrainSpec)]
    found = Counter((run.method, run.seed) for run in runs)
    trained = {(method, seed): 5 for method in ("sgd", "lomo") for seed in (42, 43, 44)}
    assert found == {("zero_shot", 42): 1, **trained}
    of = {
        (run.method, run.trial): float(run.hyper["learning_rate"])
        for run in runs
        if run.method != "zero_shot"
    }
    # The same share of either range, to the digits that a rate is written with.
    for trial in range(5):
        shares = [math.log10(of["sgd", trial] / 0.01) / 2, math.log10(of["lomo", trial] / 1e-3) / 4]
        assert shares[0] == pytest.approx(shares[1], abs=1e-3)


def test_what_is_not_searched_keeps_its_one_value(study_dict: dict[str, Any]) -> None:
    plan = planned(study_dict, grids={"lomo": {"warmup_ratio": [0.25]}})
    ratios = {run.hyper["warmup_ratio"] for run in plan.runs.values() if run.method == "lomo"}
    assert ratios == {0.25}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"methods": ["sgd", "lomo", "adamw"]}, "adamw would try one point, and the others 5"),
        ({"methods": ["sgd"]}, "lomo is not among the methods that the section trains"),
        ({"grids": {"lomo": {"learning_rate": [0.1]}}}, "is searched"),
        ({"grids": {"lomo": {"warmup_ratio": [0.1, 0.2]}}}, "2 values beside a search"),
        (
            {"search": {"trials": 5, "ranges": {**RANGES, "lomo": {"learning_rate": [1.0, 0.1]}}}},
            r"\[1, 0.1\] is no range",
        ),
        (
            {"search": {"trials": 5, "ranges": {**RANGES, "lomo": {"learning_rate": [0.0, 1]}}}},
            r"\[0, 1\] is no range",
        ),
        (
            {"search": {"trials": 5, "ranges": {**RANGES, "lomo": {"learning_rat": [0.1, 1]}}}},
            "learning_rat",
        ),
    ],
)
def test_a_search_that_is_none_is_refused(
    changes: dict[str, Any], told: str, study_dict: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match=told):
        planned(study_dict, **changes)
