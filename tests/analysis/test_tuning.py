"""What a search found: scores by hand, the range of good rates, the advice, and what is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic

from analysis.figures.all import figures_of
from analysis.figures.tuning import figure_tuning
from analysis.page.tables import tables_of
from analysis.records.collected import Collected, load
from analysis.records.tuning import Point, Tuned, tuned
from analysis.tables.hyperparameters import advice, table_tuning

RANGES = {"lora": {"learning_rate": [0.001, 0.1]}, "lomo": {"learning_rate": [0.01, 1.0]}}
# Dev accuracy of each trial's two tasks, for both seeds.
SCORES = {0: (0.9, 0.7), 1: (0.5, 0.5), 2: (0.9, 0.6), 3: (1.0, 0.62)}


def study(folder: Path, lost: str = "", waiting: str = "") -> Collected:
    made = {k: v for k, v in synthetic.study_dict().items() if k in ("study", "title", "data")}
    section = synthetic.study_dict()["superglue"] | {
        **{"methods": ["zero_shot", "lora", "lomo"], "tasks": ["rte", "boolq"], "grids": {}},
        **{"seeds": [1, 2], "search": {"trials": 4, "ranges": RANGES}},
    }

    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any] | None:
        if run_id == waiting:
            return None
        if run_id == lost:
            return synthetic.failed(record, "diverged")
        trial, task = record["spec"]["trial"], record["spec"]["task"]
        dev = SCORES[trial][("rte", "boolq").index(task)]
        evaluations = [
            e | {"value": dev} if e["split"] == "dev" else e for e in record["evaluations"]
        ]
        return record | {"evaluations": evaluations}

    synthetic.write_results(folder, synthetic.plan_of(made | {"superglue": section}), change)
    synthetic.collect_unquestioned(folder)
    return load(folder)


def of(collected: Collected, method: str) -> Tuned:
    (found,) = (each for each in tuned(collected) if each.method == method)
    return found


def test_a_trial_is_a_mean_over_tasks_and_seeds_by_its_rate(tmp_path: Path) -> None:
    found = of(study(tmp_path), "lomo")
    assert [point.rate for point in found.points] == sorted(point.rate for point in found.points)
    scores = {point.trial: point.score for point in found.points}
    assert scores == pytest.approx({t: sum(pair) / 2 for t, pair in SCORES.items()})
    assert all(point.by_seed == pytest.approx([point.score] * 2) for point in found.points)
    assert found.best.trial == 3 and len(found.best.run_ids) == 4
    assert found.num_waiting == 0 and found.best.test is not None


def test_a_run_that_is_lost_counts_nothing_and_a_trial_that_waits_is_left_out(
    tmp_path: Path,
) -> None:
    lost, waiting = "train/mini/lomo/rte/s1/t3", "train/mini/lomo/rte/s1/t0"
    collected = study(tmp_path, lost, waiting)
    found = of(collected, "lomo")
    points = {point.trial: point for point in found.points}
    assert set(points) == {1, 2, 3} and found.num_waiting == 1
    assert points[3].score == pytest.approx((1.0 + 0.62 + 0.62) / 4)
    assert (points[3].test, points[3].num_lost) == (None, 1)
    notes = table_tuning(collected).notes
    assert "Runs that did not end well count 0: LOMO 1." in notes
    assert "1 trials lack a record and are left out." in notes


def made(*scores: float, method: str = "lomo") -> Tuned:
    """Trials at rates of 1, 10, 100, ..."""
    points = (
        Point(trial, 10.0**trial, score, (score,), score, 0, ())
        for trial, score in enumerate(scores)
    )
    return Tuned("mini", method, None, tuple(points), 0)


@pytest.mark.parametrize(
    ("scores", "near", "open_ends", "begin"),
    [
        # A gap ends the range, whatever comes behind it.
        ((0.9, 0.5, 0.86, 0.9, 0.91, 0.7), (100, 10_000), (False, False), 1000),
        ((0.9, 0.86, 0.5), (1, 10), (True, False), 1),
        ((0.5, 0.8, 0.85), (10, 100), (False, True), 10),
        ((0.8, 0.8, 0.8), (1, 100), (True, True), 10),
        ((0.9, 0.849, 0.9), (1, 1), (True, False), 1),
        ((0.9, 0.85, 0.9), (1, 100), (True, True), 10),
    ],
)
def test_the_range_of_good_rates(
    scores: tuple[float, ...],
    near: tuple[float, float],
    open_ends: tuple[bool, bool],
    begin: float,
) -> None:
    found = made(*scores)
    assert (found.near[0].rate, found.near[-1].rate) == near
    assert found.width == near[1] / near[0]
    assert (found.open_ends, found.begin.rate) == (open_ends, begin)


def test_the_advice_names_where_to_begin_and_who_forgives() -> None:
    wide, narrow = made(0.5, 0.8, 0.8, 0.8, 0.5), made(0.5, 0.5, 0.8, 0.5, method="adamw")
    assert advice([narrow, wide]) == (
        "To begin with, on tasks like these and mini: AdamW 100, LOMO 100. LOMO forgives most (a "
        "factor of 100 within 5 points of its best), AdamW least (1)."
    )
    assert advice([wide]) == "To begin with, on tasks like these and mini: LOMO 100."


def test_the_table_and_the_figure_stand_only_where_a_study_searches(tmp_path: Path) -> None:
    collected = study(tmp_path / "own")
    table = table_tuning(collected)
    data = table.data.set_index("method")
    assert data.loc["lomo", "best_rate"] == of(collected, "lomo").best.rate
    assert data.loc["lomo", "best_of_4"] == pytest.approx(0.81)
    assert data.loc["lomo", "best_of_8"] is None
    assert (data["best_of_1_low"] < data["best_of_1"]).all()
    assert table.notes[0].startswith("To begin with, on tasks like these and mini: LoRA")
    assert "tuning" in tables_of(collected) and "tuning" in figures_of(collected)
    panels = figure_tuning(collected).axes
    assert [axes.get_title() for axes in panels[:2]] == ["LoRA", "LOMO"]
    found = of(collected, "lomo")
    (line,) = panels[1].lines
    assert list(line.get_xdata()) == [point.rate for point in found.points]
    assert list(line.get_ydata()) == pytest.approx([100 * point.score for point in found.points])
    (best,) = panels[3].lines
    assert list(best.get_xdata()) == [1, 2, 3, 4]
    assert best.get_ydata()[-1] == pytest.approx(81.0)
    synthetic.write_results(tmp_path / "other", synthetic.plan_of(synthetic.study_dict()))
    synthetic.collect_unquestioned(tmp_path / "other")
    other = load(tmp_path / "other")
    assert "tuning" not in tables_of(other) and "tuning" not in figures_of(other)
