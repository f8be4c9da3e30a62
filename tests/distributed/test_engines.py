"""Two ranks are one process on the full batch, for every method that an engine runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.cases import CASES, Case, reference
from tests.distributed.launched import launched
from tests.numerics.models import max_difference

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_S = 240
TOLERANCE = 1e-6

pytestmark = pytest.mark.slow

Facts = list[dict[str, Any]]  # by rank: what each case gave


@pytest.fixture(scope="module", params=["fsdp2", "zero3"])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What the battery gave on each rank of an engine; started once."""
    folder = tmp_path_factory.mktemp(request.param)
    found = launched("tests.distributed.rank", request.param, folder, timeout_s=TIMEOUT_S)
    return [{"engine": request.param, **facts} for facts in found]


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return {}


def facts_of(ranks: Facts, key: str) -> Facts:
    if key not in ranks[0]:
        pytest.skip(f"not a case of {ranks[0]['engine']}")
    for facts in ranks:
        assert "error" not in facts[key], facts[key]["error"]
    return [facts[key] for facts in ranks]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_two_ranks_equal_one_process(
    ranks: Facts, references: dict[str, Any], case: Case, record_property: Any
) -> None:
    found = facts_of(ranks, case.name)
    if case.name not in references:
        references[case.name] = reference(case)
    weights, losses, norms = references[case.name]
    difference = max_difference(found[0]["weights"], weights)
    record_property("max_difference", difference)
    print(f"{ranks[0]['engine']} {case.name}: {difference:.1e}")
    assert difference <= case.tolerance
    if case.tolerance > TOLERANCE:
        return
    assert found[0]["losses"] == pytest.approx(losses, abs=5e-6)
    given = [(a, b) for a, b in zip(found[0]["norms"], norms, strict=True) if b is not None]
    assert [a for a, _ in given] == pytest.approx([b for _, b in given], rel=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_ranks_agree_bit_for_bit(ranks: Facts, case: Case) -> None:
    first, second = facts_of(ranks, case.name)
    assert all(torch.equal(first["weights"][n], second["weights"][n]) for n in first["weights"])
    assert first["losses"] == second["losses"]
    assert first["norms"] == second["norms"]
    assert all(map(torch.equal, first["columns"], second["columns"]))


@pytest.mark.parametrize("limit", [None, 1.0])
@pytest.mark.parametrize("optimizer", ["Lomo", "AdaLomo"])
def test_an_overflow_on_one_rank_is_skipped_by_both(
    ranks: Facts, optimizer: str, limit: float | None
) -> None:
    for facts in facts_of(ranks, f"overflow-{optimizer}-{limit}"):
        start, first, second, third = facts["seen"]
        assert max_difference(first, start) > 0
        assert max_difference(second, first) == 0
        assert max_difference(third, second) > 0
        assert facts["scales"] == [2.0**15, 2.0**14, 2.0**14]


@pytest.mark.parametrize("optimizer", ["Lomo", "AdaLomo"])
def test_no_other_gradient_is_alive_when_one_is_used(ranks: Facts, optimizer: str) -> None:
    for facts in facts_of(ranks, f"alive-{optimizer}"):
        assert facts["alive"] == [0] * facts["num_parameters"]


@pytest.mark.parametrize("optimizer", ["Lomo", "AdaLomo"])
def test_kept_parts_are_what_is_scored_after_they_are_written_back(
    ranks: Facts, optimizer: str
) -> None:
    for facts in facts_of(ranks, f"parts-{optimizer}"):
        before, between, after = facts["losses"]
        assert after == before != between


def test_state_is_loaded_bit_for_bit(ranks: Facts) -> None:
    for facts in facts_of(ranks, "resumed"):
        assert max_difference(facts["straight"], facts["resumed"]) == 0


def test_a_second_pass_that_differs_on_one_rank_stops_all(ranks: Facts) -> None:
    for facts in facts_of(ranks, "differs"):
        assert "second backward pass made other gradients" in facts["message"]


@pytest.mark.parametrize("kind", ["replicas", "ddp"])
def test_replicas_that_would_drift_apart_are_refused(ranks: Facts, kind: str) -> None:
    for facts in facts_of(ranks, kind):
        assert len(facts["messages"]) == 2  # with and without clipping
        assert all("not spread over them" in message for message in facts["messages"])
        assert facts["moved"] == []


def test_a_split_along_columns_is_refused(ranks: Facts) -> None:
    for facts in facts_of(ranks, "columns"):
        assert "split along dimension 1" in facts["messages"][0]
        assert facts["moved"] == []


def test_shards_with_replicas_equal_shards_alone(ranks: Facts) -> None:
    """HSDP: both ways to lay out two ranks give the same weights."""
    for facts in facts_of(ranks, "hybrid"):
        for name in ("Lomo", "AdaLomo"):
            both = facts[f"{name}-(2, 1)"], facts[f"{name}-(1, 2)"]
            assert max_difference(*both) <= TOLERANCE
