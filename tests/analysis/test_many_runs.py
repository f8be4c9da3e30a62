"""A study of ten thousand runs: what its page holds of them, and that each is read once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from analysis.page.runs import run_list
from analysis.records import histories
from analysis.records.collect import tidy
from analysis.records.collected import Collected, load
from analysis.text.grid import MOST_LINKED, Block, Cell, Table
from analysis.text.render import write_table

NUM_SEEDS = 280


@pytest.fixture(scope="module")
def many() -> Collected:
    """The plan of 10,080 runs, and a row for each that ended well."""
    study = synthetic.study_dict()
    for section in ("lora_rank", "memory", "throughput"):
        study.pop(section)
    given = {key: value for key, value in study["superglue"].items() if key != "grids"}
    plan = synthetic.plan_of(study | {"superglue": given | {"seeds": list(range(NUM_SEEDS))}})
    told = {
        run_id: {"status": "ok", "test_accuracy": 0.815, "clock_wall_s": 12.34}
        for run_id in plan.runs
    }
    return Collected(Path("results/made-up"), plan, tidy(plan, told))


def test_the_list_of_ten_thousand_runs_is_short_and_holds_them_all(many: Collected) -> None:
    listed = json.loads(run_list(many)["data"])
    ids: list[str] = []
    for shared, rest in zip(listed["shared"], listed["rest"], strict=True):
        ids.append((ids[-1][:shared] if ids else "") + rest)
    assert ids == list(many.plan.runs) and len(ids) > 10_000
    assert {listed["statuses"][number] for number in listed["status"]} == {"ok"}
    assert set(listed["result"]) == {"81.5 %"} and set(listed["seconds"]) == {12.3}
    assert len(run_list(many)["data"]) < 40 * len(ids)


def test_a_number_of_many_runs_keeps_their_names_short(many: Collected, tmp_path: Path) -> None:
    runs = tuple(list(many.plan.runs)[:NUM_SEEDS])
    folded = Cell("81.5", runs=runs).folded()
    assert folded is not None
    start, end, middle = folded
    assert tuple(start + part + end for part in middle.split("\n")) == runs
    assert Cell("81.5", runs=runs[:MOST_LINKED]).folded() is None
    rows = [["a", Cell("81.5", runs=runs)] for _ in range(42)]
    table = Table("many", "t", "c", [Block(["method", "RTE"], rows, 1)], [], pd.DataFrame())
    write_table(table, tmp_path)
    page = (tmp_path / "many.html").read_text(encoding="utf-8")
    assert len(page) < 15 * len(runs) * 42 and "<a class" not in page


def test_nine_figures_read_each_history_once(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[Path] = Counter()
    smoothed: Counter[str] = Counter()
    lines, smooth = histories.read_lines, histories._smoothed

    def counted(path: Path) -> list:
        read[path] += 1
        return lines(path)

    def counted_smooth(seed: pd.Series) -> pd.Series:
        smoothed[str(seed.name)] += 1
        return smooth(seed)

    monkeypatch.setattr(histories, "read_lines", counted)
    monkeypatch.setattr(histories, "_smoothed", counted_smooth)
    collected = load(built)
    cells = histories.accuracy.accuracy_cells(collected, "superglue")
    # Averages over tasks are of the same runs.
    cells = [cell for cell in cells if cell.task in synthetic.TASKS]
    trained = [cell for cell in cells if cell.method != "zero_shot"]
    for over in ("steps", "tokens", "seconds"):
        for quantity in ("loss", "accuracy", "grad_norm"):
            for cell in trained:
                assert histories.curve(collected, cell, quantity, over) is not None
    runs = {run_id for cell in trained for run_id in cell.run_ids}
    assert set(read.values()) == {1} and len(read) == len(runs)
    assert set(smoothed) == {"loss", "grad_norm"}
    assert set(smoothed.values()) == {len(runs)}, "each once, whatever it is drawn over"
