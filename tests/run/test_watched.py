"""Which steps of a run are watched, what its record then says, and why one says nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lomo.record.belief import doubts
from lomo.record.clock import Clock
from lomo.record.schema import Record
from lomo.run import loop
from lomo.run.applied import MOST_STEPS, steps_of_training
from lomo.run.execute import execute
from lomo.study.config import Study
from lomo.study.plan import make_plan


@pytest.mark.parametrize("number", [1, 2, 15, 16, 17, 76, 6300])
def test_at_most_so_many_steps_are_watched_evenly(number: int) -> None:
    found = sorted(steps_of_training(number))
    assert len(found) == min(MOST_STEPS, math.ceil(number / 8))
    assert found[0] >= 1 and found[-1] <= number
    gaps = {b - a for a, b in zip(found, found[1:], strict=False)}
    assert not gaps or max(gaps) - min(gaps) <= 1


def record_of(
    study: dict[str, Any], method: str, kind: str, folder: Path, **changes: Any
) -> Record:
    plan = make_plan(Study.model_validate(study), source="unit.yaml")
    spec = next(s for s in plan.runs.values() if s.method == method and s.kind == kind)
    hyper = spec.hyper | changes.pop("hyper", {})
    spec = spec.model_copy(update={**changes, "hyper": hyper})
    record = execute(spec, folder, Clock())
    assert record.status == "ok", record.evidence
    assert doubts(record, spec, folder) == []
    return record


@pytest.mark.parametrize("method", ["lomo", "adalomo", "sgd"])
def test_a_training_in_16_bits_tells_what_was_applied(
    method: str, study_dict: dict[str, Any], tmp_path: Path
) -> None:
    hyper = {} if method == "adalomo" else {"learning_rate": 0.1}
    record = record_of(study_dict, method, "train", tmp_path, dtype="bfloat16", hyper=hyper)
    applied = record.applied
    assert applied is not None and applied.num_steps == 1  # of eight
    assert applied.intended == ("master_copy" if method == "sgd" else "rule")
    assert applied.groups.keys() == {"embeddings", "attention", "mlp", "norms", "head"}
    attention = applied.groups["attention"]
    assert attention.num_asked >= 0.9 * attention.num_watched
    assert attention.moved is not None and 0 < attention.moved < 1
    assert applied.share is not None and 0 < applied.share < 1.5
    # Gains of norms are near 1, where half a unit is longest.
    moved = applied.groups["norms"].moved
    assert moved is not None and moved < attention.moved


def test_stochastic_rounding_applies_more_in_a_run(
    study_dict: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "steps_of_training", lambda number: range(1, number + 1))
    shares = {}
    for rounding in ("nearest", "stochastic"):
        hyper = {"learning_rate": 0.001, "rounding": rounding}
        folder = tmp_path / rounding
        record = record_of(study_dict, "lomo", "train", folder, dtype="bfloat16", hyper=hyper)
        assert record.applied is not None and record.applied.share is not None
        shares[rounding] = record.applied.share
    assert shares["nearest"] < 0.8 and abs(shares["stochastic"] - 1) < 0.3


@pytest.mark.parametrize(
    ("method", "kind", "changes", "reason"),
    [
        ("lomo", "train", {}, "float32 weights take every step"),
        ("zero_shot", "train", {"dtype": "bfloat16"}, "nothing is trained"),
        ("lora", "train", {"dtype": "bfloat16"}, "no 16-bit weight is trained"),
        ("lomo", "measure", {"hyper": {"update": "gemm"}}, "a product that updates tells no step"),
        ("lomo", "measure", {"num_warmup_steps": 0}, "no step before the clock starts"),
    ],
)
def test_a_record_that_tells_nothing_says_why(
    method: str,
    kind: str,
    changes: dict[str, Any],
    reason: str,
    study_dict: dict[str, Any],
    tmp_path: Path,
) -> None:
    record = record_of(study_dict, method, kind, tmp_path, **changes)
    assert record.applied is None and record.missing["applied"] == reason


def test_a_measured_run_watches_before_its_clock_starts(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    record = record_of(study_dict, "lora_lomo", "measure", tmp_path)
    assert record.applied is not None and record.applied.num_steps == 2
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "applied"] == [1, 2]


def test_a_share_that_was_edited_is_not_believed(
    study_dict: dict[str, Any], tmp_path: Path
) -> None:
    plan = make_plan(Study.model_validate(study_dict), source="unit.yaml")
    spec = next(s for s in plan.runs.values() if s.method == "lomo" and s.kind == "measure")
    record = execute(spec, tmp_path, Clock())
    assert record.applied is not None
    groups = dict(record.applied.groups)
    groups["mlp"] = groups["mlp"].model_copy(update={"share": 0.99})
    changed = record.model_copy(
        update={"applied": record.applied.model_copy(update={"groups": groups})}
    )
    assert any("applied.groups.mlp.share" in doubt for doubt in doubts(changed, spec, tmp_path))
    gone = record.model_copy(update={"applied": None, "missing": {"applied": "?"}})
    assert any("applied is there" in doubt for doubt in doubts(gone, spec, tmp_path))
