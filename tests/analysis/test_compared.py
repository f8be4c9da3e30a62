"""Two accuracies beside each other: what is paired, what is refused, and who is no baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic

from analysis.records.accuracy import Cell, accuracy_cells, find
from analysis.records.collect import outcomes_path
from analysis.records.collected import Collected, load
from analysis.records.compared import (
    alike,
    behind,
    common_seeds,
    compared,
    gains_nothing,
    no_baseline,
    pairs_of,
)
from analysis.records.outcomes import outcomes
from analysis.statistics.difference import Difference
from analysis.verdicts.all import all_verdicts
from lomo.errors import UserError

TASKS = ["rte", "multirc"]


def study(seeds: list[int]) -> dict:
    made = synthetic.study_dict()
    for section in ("lora_rank", "memory", "throughput"):
        made.pop(section)
    methods = ["zero_shot", "lora", "lomo"]
    made["superglue"] |= {"methods": methods, "tasks": TASKS, "grids": {}, "seeds": seeds}
    return made


def collected(folder: Path, seeds: list[int], change: synthetic.Change | None = None) -> Collected:
    synthetic.write_results(folder, synthetic.plan_of(study(seeds)), change)
    synthetic.collect_unquestioned(folder)
    return load(folder)


def cells_of(found: Collected) -> dict[str, list[Cell]]:
    cells = accuracy_cells(found, "superglue")
    averages = [cell for cell in cells if cell.task == "average"]
    return {cell.method: behind(cells, cell) for cell in averages}


def edited(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Collected:
    path = outcomes_path(folder)
    change(pd.read_parquet(path)).to_parquet(path)
    return load(folder)


def test_outcomes_are_those_of_the_samples(tmp_path: Path) -> None:
    found = collected(tmp_path, [1, 2])
    for run_id, known in outcomes(found).items():
        lines = (tmp_path / "runs" / run_id / "samples.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        assert known.right.tolist() == [sample["acc"] for sample in samples]
        if "multirc" in run_id:
            assert known.groups is not None
            assert known.groups.tolist() == [sample["group"] for sample in samples]
        else:
            assert known.groups is None
    assert len(outcomes(found)) == 2 + 2 * 4


def test_a_difference_is_that_of_the_accuracies_seed_by_seed(tmp_path: Path) -> None:
    found = collected(tmp_path, [1, 2, 3])
    of = cells_of(found)
    told = compared(found, of["lomo"], of["lora"])
    assert isinstance(told, Difference) and told.seeds is not None
    apart = [
        np.mean([a.by_seed[s] - b.by_seed[s] for a, b in zip(of["lomo"], of["lora"], strict=True)])
        for s in (1, 2, 3)
    ]
    assert told.value == pytest.approx(np.mean(apart))
    assert told.seeds.variance == pytest.approx(np.var(apart, ddof=1) / 3)
    # 200 of RTE; MultiRC's 200 are 50 passages.
    assert told.num_examples == 400 and told.examples.df == 49


def test_zero_shot_of_one_base_stands_beside_each_seed(tmp_path: Path) -> None:
    of = cells_of(found := collected(tmp_path, [1, 2, 3]))
    assert set(of["zero_shot"][0].run_of) == {1}
    assert common_seeds(of["lomo"], of["zero_shot"]) == [1, 2, 3]
    pairs = pairs_of(found, of["lomo"], of["zero_shot"])
    assert not isinstance(pairs, str) and pairs[0].differences.shape == (3, 200)


def test_only_seeds_that_both_have_are_paired(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        return synthetic.failed(record, "oom") if "lora-r2/rte/s2" in run_id else record

    of = cells_of(found := collected(tmp_path, [1, 2, 3], change))
    assert common_seeds(of["lomo"], of["lora"]) == [1, 3]
    orders = {v.what: v for v in all_verdicts(found) if v.order}
    order = orders["Mean accuracy, LOMO at least LoRA"]
    assert "paired on the 2 of 3 seeds that both have" in order.reason
    assert order.tested is not None and order.tested.num_seeds == 2


def test_without_a_common_seed_nothing_is_told(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        lost = "lora-r2/rte/s2" in run_id or "lomo/rte/s1" in run_id
        return synthetic.failed(record, "oom") if lost else record

    of = cells_of(found := collected(tmp_path, [1, 2], change))
    told = compared(found, of["lomo"], of["lora"])
    assert told == "no seed of which both have a value in each task"


def test_other_examples_are_not_paired(tmp_path: Path) -> None:
    collected(tmp_path, [1, 2])

    def others(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[frame["run_id"].str.contains("lora-r2/rte"), "examples"] += 1
        return frame

    of = cells_of(found := edited(tmp_path, others))
    told = compared(found, of["lomo"], of["lora"])
    assert told == (
        "LOMO and LoRA were scored on different examples of RTE, which cannot be paired"
    )
    verdicts = {v.what: v for v in all_verdicts(found) if v.order}
    order = verdicts["Mean accuracy, LOMO at least LoRA"]
    assert order.verdict == "undecided" and "different examples of RTE" in order.reason
    assert gains_nothing(found, "superglue")["mini", "lora-r2", "rte"] is None


def test_a_run_without_outcomes_is_named(tmp_path: Path) -> None:
    collected(tmp_path, [1, 2])
    lost = "train/mini/lomo/rte/s2/t0"
    of = cells_of(found := edited(tmp_path, lambda frame: frame[frame["run_id"] != lost]))
    told = compared(found, of["lomo"], of["lora"])
    assert told == f"which examples {lost} gets right was not collected"
    assert alike(found, of["lomo"][0]) is None


@pytest.mark.parametrize("cut", [False, True])
def test_outcomes_that_are_gone_or_cut_are_told(cut: bool, tmp_path: Path) -> None:
    collected(tmp_path, [1])
    if cut:
        outcomes_path(tmp_path).write_bytes(outcomes_path(tmp_path).read_bytes()[:100])
    else:
        outcomes_path(tmp_path).unlink()
    with pytest.raises(UserError, match="outcomes of single examples are not there, or were cut"):
        outcomes(load(tmp_path))


@pytest.mark.parametrize(
    ("gains", "none"),
    [
        ([True, False, False], True),
        ([True, False, False, False], False),
        ([True, False, None], True),
        ([False, False], False),
        ([None, None], False),
        ([], False),
        ([True, True, False, False, False, False], True),
    ],
)
def test_a_third_of_the_cells_without_a_gain_is_no_baseline(
    gains: list[bool | None], none: bool
) -> None:
    assert no_baseline(gains) is none


def test_a_gain_that_one_seed_of_three_misses_is_not_shown(tmp_path: Path) -> None:
    values = {"lomo": (0.97, 0.96, 0.50), "lora-r2": (0.75, 0.80, 0.72), "zero_shot": (0.5,)}

    def change(run_id: str, record: dict) -> dict:
        value = values[run_id.split("/")[2]][record["spec"]["seed"] - 1]
        result = record["result"] | {"value": value}
        return record | {"result": result, "evaluations": [*record["evaluations"][:-1], result]}

    found = collected(tmp_path, [1, 2, 3], change)
    gains = gains_nothing(found, "superglue")
    assert gains["mini", "lomo", "rte"] is True and gains["mini", "lora-r2", "rte"] is False
    assert gains["mini", "zero_shot", "rte"] is None
    cell = find(accuracy_cells(found, "superglue"), method="lomo", task="rte")
    share = alike(found, cell) if cell else None
    assert share is not None and 0.3 < share < 0.6
