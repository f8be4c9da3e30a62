"""Predictions beside what strangers measured: the quickest rows of public_memory.yaml."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "results" / "published" / "public-memory"


@pytest.fixture(scope="module")
def public() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "public_memory", ROOT / "benchmarks" / "public_memory.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("row_id", ["M2 - M1", "M5b", "M6b", "M8", "M10a", "M14", "M22a"])
def test_a_prediction_is_within_the_bound_of_what_was_measured(
    public: ModuleType, row_id: str
) -> None:
    (row,) = (row for row in public.ASKED["rows"] if row["id"] == row_id)
    predicted = public.predicted_bytes(row)
    assert public.holds(row, predicted)
    published = pd.read_csv(PUBLISHED / "rows.csv").set_index("row")
    assert published.loc[row_id, "predicted_bytes"] == predicted


@pytest.mark.slow
@pytest.mark.parametrize(
    "asked", ["OpenLMLab/LOMO issue 53", "the same with checkpointing", "OpenLMLab/LOMO issue 17"]
)
def test_a_question_that_was_asked_gets_the_answer_that_life_gave(
    public: ModuleType, asked: str
) -> None:
    question = next(entry for entry in public.ASKED["questions"] if entry["asked"] == asked)
    assert public.answered(question)[1] == question["fits"]


def test_every_published_answer_is_the_right_one_and_every_row_outside_says_so() -> None:
    assert pd.read_csv(PUBLISHED / "questions.csv")["holds"].all()
    rows = pd.read_csv(PUBLISHED / "rows.csv")
    outside = rows[rows["holds"].eq(False)]
    assert list(outside["row"]) == ["M3b", "M7"]
    assert outside["note"].notna().all()
