from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import synthetic

from analysis.cli import main
from analysis.paper.printed import COLUMNS, FILES, printed, value
from analysis.records.collected import load
from analysis.verdicts.all import all_verdicts
from analysis.verdicts.claims import _judge as judge_claim
from analysis.verdicts.orders import _spread
from analysis.verdicts.predicted import NO_SPEED
from analysis.verdicts.verdict import MEASURED, PREDICTED, VERDICTS, Verdict, failed, judge

SIZES = ("7B", "13B", "30B", "65B")
TASKS = ("rte", "boolq", "wsc", "wic", "multirc", "copa")
PARTS = ("parameters", "gradients", "optimizer_state", "activations")


@pytest.mark.parametrize("name", FILES)
def test_printed_values_are_tagged_as_read_or_inferred(name: str) -> None:
    frame = printed(name)
    assert tuple(frame.columns) == COLUMNS
    # R, recalled from memory, must not stand beside a measurement.
    assert set(frame["note"].str[0]) <= {"V", "I"}
    assert frame["value"].str.len().gt(0).all()


@pytest.mark.parametrize("method", ["adamw", "sgd", "lomo"])
def test_table_1_adds_up_but_for_its_erratum(method: str) -> None:
    for setting, excess in (("plain", 1.00), ("checkpointed", 0.00)):
        row = f"7B/{method}/{setting}"
        parts = [value("table1_memory", row, part) for part in PARTS]
        total = value("table1_memory", row, "total")
        assert total is not None
        assert total - sum(part or 0.0 for part in parts) == pytest.approx(excess, abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", ["zero_shot", "lora", "lomo"])
def test_the_averages_of_table_3_recompute(size: str, method: str) -> None:
    values = [value("table3_superglue", f"{size}/{method}", task) for task in TASKS]
    average = value("table3_superglue", f"{size}/{method}", "average")
    assert average is not None
    assert sum(v or 0.0 for v in values) / 6 == pytest.approx(average, abs=0.0501)


@pytest.mark.parametrize("method", ["adamw", "sgd", "lomo"])
def test_figure_2_is_table_1_over_its_total(method: str) -> None:
    row = f"7B/{method}/checkpointed"
    total = value("table1_memory", row, "total")
    assert total
    for part in PARTS:
        share = 100 * (value("table1_memory", row, part) or 0.0) / total
        assert share == pytest.approx(value("figure2_shares", row, part), abs=0.0501)


def test_the_headline_memory_share_follows_from_table_2() -> None:
    lomo, adamw = (value("table2_throughput", f"7B/{m}", "peak") for m in ("lomo", "adamw"))
    assert lomo
    assert adamw
    assert 100 * lomo / (8 * adamw) == pytest.approx(10.8, abs=0.05)


def test_figure_3_meets_table_3_without_lora() -> None:
    for task in ("boolq", "multirc"):
        alone = value("figure3_lora_rank", "13B/lomo", task)
        assert alone == value("table3_superglue", "13B/lomo", task)


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [(10.0, "reproduced"), (10.3, "reproduced"), (9.7, "reproduced"), (10.31, "differs")],
)
def test_the_boundary_of_a_tolerance_belongs_to_it(measured: float, verdict: str) -> None:
    assert judge(10.0, measured, 0.3) == verdict


def test_every_printed_value_gets_a_verdict(built: Path) -> None:
    verdicts = all_verdicts(load(built))
    numbers = [verdict for verdict in verdicts if not verdict.order]
    assert len(numbers) == sum(len(printed(name)) for name in FILES)
    assert {verdict.verdict for verdict in verdicts} <= set(VERDICTS)
    assert all(verdict.reason for verdict in verdicts)


def test_a_miniature_is_not_compared_but_its_orders_are(built: Path) -> None:
    verdicts = all_verdicts(load(built))
    numbers = {v.reason for v in verdicts if not v.order and v.basis != PREDICTED}
    assert numbers == {"mini is not one of the paper's models", NO_SPEED}
    measured = {v.source for v in verdicts if v.basis == MEASURED}
    assert measured == {"Order"}
    orders = {verdict.what: verdict for verdict in verdicts if verdict.order}
    memory = orders["Memory with checkpointing, LOMO < SGD < AdamW: sum of terms"]
    assert memory.verdict == "reproduced"
    assert memory.reason == "as an order, on mini"
    one = orders["LOMO with checkpointing: gradients never exceed the largest parameter tensor"]
    assert one.measured == "327,680 B of 327,680 B"


def test_a_comparable_study_is_judged_value_by_value(paper_like: Path) -> None:
    verdicts = {(v.source, v.what): v for v in all_verdicts(load(paper_like))}
    weights = verdicts["Table 1", "7B AdamW, plain: parameters"]
    assert (weights.verdict, weights.measured) == ("reproduced", "12.55 GiB")
    activations = verdicts["Table 1", "7B AdamW, plain: activations"]
    assert activations.verdict == "differs"
    assert "sdpa attention" in activations.reason
    devices = verdicts["Table 2", "7B SGD: peak of a device"]
    assert (devices.verdict, devices.basis) == ("reproduced", PREDICTED)
    assert "the study's own run: measured on 1 device, the paper on 8" in devices.reason
    speed = verdicts["Table 2", "7B LOMO: tokens/s per device"]
    assert speed.reason == "measured on made-up CPU, the paper on RTX 3090"
    absent = verdicts["Table 3", "65B LOMO: average"]
    assert (absent.verdict, absent.reason) == (
        "not run",
        "the study does not ask for 65B with LOMO",
    )


@pytest.mark.parametrize(
    ("table", "status", "printed_value", "verdict"),
    [
        ("1", "oom", "12.55", "not comparable"),
        ("2", "oom", "12.55", "differs"),
        ("2", "predicted_oom", "OOM", "reproduced"),
        ("1", "diverged", "12.55", "differs"),
        ("2", "timeout", "12.55", "not comparable"),
    ],
)
def test_a_failure_contradicts_only_what_the_same_machine_did(
    table: str, status: str, printed_value: str, verdict: str
) -> None:
    cell = SimpleNamespace(table=table, value=printed_value, unit="GiB", note="V")
    assert failed(cell, "peak", status, "a run").verdict == verdict


def orders_of(
    folder: Path, study: dict, change: synthetic.Change | None = None
) -> dict[str, Verdict]:
    synthetic.write_results(folder, synthetic.plan_of(study), change)
    synthetic.collect_unquestioned(folder)
    return {verdict.what: verdict for verdict in all_verdicts(load(folder)) if verdict.order}


def test_an_order_says_why_it_was_not_put_to_the_test(tmp_path: Path) -> None:
    study = synthetic.study_dict()
    study["throughput"] |= {"methods": ["lomo", "adamw"]}

    def change(run_id: str, record: dict) -> dict | None:
        if run_id == "measure/mini/sgd/128x8-bfloat16-plain":
            return synthetic.failed(record, "oom")
        if run_id == "measure/mini/lomo/128x8-bfloat16-checkpointed":
            return None
        if run_id.startswith("train/mini/lora-r2/rte/"):
            return synthetic.failed(record, "diverged")
        return record

    orders = orders_of(tmp_path, study, change)
    failed = orders["Memory without checkpointing, LOMO < SGD < AdamW: true peak"]
    assert (failed.verdict, failed.reason) == ("not comparable", "on mini: SGD ended as OOM")
    assert failed.run_id == "measure/mini/sgd/128x8-bfloat16-plain"
    absent = orders["Memory with checkpointing, LOMO < SGD < AdamW: true peak"]
    assert (absent.verdict, absent.reason) == ("not run", "on mini: LOMO has no record yet")
    both = orders["SGD: checkpointing makes activations smaller"]
    assert both.reason == "on mini: SGD without checkpointing ended as OOM"
    unplanned = orders["Tokens/s per device, LOMO above SGD"]
    assert unplanned.verdict == "not run"
    assert unplanned.reason == "on mini: the study does not ask for SGD"
    trained = orders["Mean accuracy, LOMO at least LoRA"]
    assert (trained.verdict, trained.reason) == (
        "not comparable",
        "on mini: LoRA ended as diverged",
    )


def test_an_order_within_the_seeds_interval_says_so(tmp_path: Path) -> None:
    study = synthetic.study_dict()
    for section in ("lora_rank", "memory", "throughput"):
        study.pop(section)
    methods = ["zero_shot", "lora", "lomo"]
    study["superglue"] |= {"methods": methods, "tasks": ["rte"], "grids": {}, "seeds": [1, 2]}
    test = {"lora": {1: 0.5, 2: 0.7}, "lomo": {1: 0.8, 2: 0.8}, "zero_shot": {1: 0.1}}

    def change(run_id: str, record: dict) -> dict:
        spec, known = record["spec"], {"stderr": 0.001, "missing": {}}
        result = record["result"] | known | {"value": test[spec["method"]][spec["seed"]]}
        return record | {"result": result, "evaluations": [*record["evaluations"][:-1], result]}

    orders = orders_of(tmp_path, study, change)
    near = orders["Mean accuracy, LOMO at least LoRA"]
    assert near.verdict == "undecided"
    assert near.measured == "LOMO 80.0 %, LoRA 60.0 % (over RTE, the paper over six tasks)"
    assert near.reason.startswith("as an order, on mini; p = 0.30 for 2 claims, above 0.05")
    assert near.tested is not None and near.tested.num_seeds == 2
    assert near.tested.difference == pytest.approx(0.2)
    # Student's t with one degree of freedom: 12.706 standard errors of 0.1; examples add to it.
    half = 12.7062 * 0.1
    assert near.tested.difference_low == pytest.approx(0.2 - half, abs=0.02)
    assert near.tested.difference_low < 0.2 - half
    far = orders["Mean accuracy, LOMO at least 20 points above zero-shot"]
    assert (far.verdict, far.reason) == ("reproduced", "as an order, on mini")


@pytest.mark.parametrize(
    ("lomo", "lora", "verdict", "why"),
    [
        (0.80, 0.65, "reproduced", ""),
        (0.65, 0.80, "differs", ""),
        (0.805, 0.80, "undecided", "; p = 0.73 for 2 claims, above 0.05"),
        (0.795, 0.80, "undecided", "; p = 0.73 for 2 claims, above 0.05"),
        # A baseline that training has not moved from zero-shot is none.
        (0.80, 0.505, "undecided", "; LoRA is not above zero-shot there, and so no baseline"),
        (0.51, 0.80, "undecided", "; LOMO is not above zero-shot there, and so no baseline"),
    ],
)
def test_an_order_is_held_only_where_the_evidence_tells(
    lomo: float, lora: float, verdict: str, why: str, tmp_path: Path
) -> None:
    levels = {"lomo": lomo, "lora": lora, "zero_shot": 0.5}
    study = accuracy_study(seeds=[1, 2, 3])
    orders = orders_of(tmp_path, study, scored(levels, stderr=0.01))
    found = orders["Mean accuracy, LOMO at least LoRA"]
    assert (found.verdict, found.reason) == (verdict, f"as an order, on mini{why}")
    assert found.tested is not None and found.tested.num_claims == 2
    assert found.tested.difference == pytest.approx(lomo - lora)


def test_what_has_not_learned_is_no_evidence_against_a_claim(tmp_path: Path) -> None:
    levels = {"lomo": 0.45, "lora": 0.8, "zero_shot": 0.5}
    study = accuracy_study(seeds=[1, 2, 3])
    orders = orders_of(tmp_path, study, scored(levels, stderr=0.01))
    found = orders["Mean accuracy, LOMO at least 20 points above zero-shot"]
    assert found.verdict == "undecided" and found.tested is not None
    assert found.tested.p is not None and found.tested.p < 0.05
    assert found.reason.endswith("LOMO is not above zero-shot there, and so no baseline")


def test_of_one_seed_no_order_of_a_training_is_decided(tmp_path: Path) -> None:
    levels = {"lomo": 0.9, "lora": 0.65, "zero_shot": 0.5}
    orders = orders_of(tmp_path, accuracy_study(), scored(levels, stderr=0.01))
    assert {v.verdict for v in orders.values() if v.kind == "accuracy" and v.tested} == {
        "undecided"
    }
    found = orders["Mean accuracy, LOMO at least LoRA"]
    assert "one seed: another could turn it round (of its examples alone p under 0.001)" in (
        found.reason
    )
    assert found.tested is not None and found.tested.p is None
    assert found.tested.difference_low is None and found.tested.smallest_difference is None
    assert found.tested.examples_low is not None and found.tested.examples_low > 0.1


def accuracy_study(*tasks: str, seeds: Sequence[int] = (42,)) -> dict:
    study = synthetic.study_dict()
    for section in ("lora_rank", "memory", "throughput"):
        study.pop(section)
    methods = ["zero_shot", "lora", "lomo"]
    study["superglue"] |= {"methods": methods, "tasks": list(tasks) or ["rte"], "grids": {}}
    study["superglue"] |= {"seeds": list(seeds)}
    return study


def scored(levels: dict[str, float], stderr: float) -> synthetic.Change:
    """Every run of a method with the same test accuracy and error."""

    def change(run_id: str, record: dict) -> dict:
        told = {"value": levels[record["spec"]["method"]], "stderr": stderr, "missing": {}}
        result = record["result"] | told
        return record | {"result": result, "evaluations": [*record["evaluations"][:-1], result]}

    return change


def test_a_cell_that_training_left_at_zero_shot_is_marked(tmp_path: Path) -> None:
    change = scored({"lomo": 0.8, "lora": 0.505, "zero_shot": 0.5}, stderr=0.01)
    orders_of(tmp_path, accuracy_study(), change)
    main(["table", "--results", str(tmp_path), "--which", "3"])
    data = pd.read_csv(tmp_path / "tables" / "table3_superglue.csv").set_index(["method", "task"])
    assert data.loc[("lora", "rte"), "no_gain"] and not data.loc[("lomo", "rte"), "no_gain"]
    text = (tmp_path / "tables" / "table3_superglue.md").read_text()
    assert "| LoRA | 50.5 ± 1.0 (no gain) | 50.5 ± 1.0 (no gain) |" in text
    assert "No gain: not above zero-shot by a paired test over seeds and examples" in text


def test_speeds_within_the_spread_of_their_steps_are_undecided(tmp_path: Path) -> None:
    def change(run_id: str, record: dict) -> dict:
        speeds = {"sgd": 1000.0, "adamw": 500.0, "lomo": 1010.0}
        speed = speeds.get(record["spec"]["method"])
        if record["throughput"] is None or speed is None:
            return record
        name = "tokens_per_s_per_device"
        told = {name: speed, f"{name}_p10": 0.95 * speed, f"{name}_p90": 1.05 * speed}
        return record | {"throughput": record["throughput"] | told}

    orders = orders_of(tmp_path, synthetic.study_dict(), change)
    near = orders["Tokens/s per device, LOMO above SGD"]
    assert near.verdict == "undecided"
    assert near.reason.startswith("as an order, on mini; p = 0.46 for 2 claims, above 0.05")
    assert near.reason.endswith("within the spread of single steps")
    far = orders["Tokens/s per device, LOMO above AdamW"]
    assert far.verdict == "reproduced" and far.tested is not None
    assert far.tested.difference == pytest.approx(1.02) and far.tested.num_steps == 10


@pytest.mark.parametrize(("low", "meets"), [(1049.0, True), (1050.0, True), (1051.0, False)])
def test_the_slow_steps_of_the_faster_meet_the_fast_ones_of_the_slower(
    low: float, meets: bool
) -> None:
    name = "tokens_per_s_per_device"
    slower = SimpleNamespace(**{name: 1000.0, f"{name}_p10": 950.0, f"{name}_p90": 1050.0})
    faster = SimpleNamespace(**{name: 1100.0, f"{name}_p10": low, f"{name}_p90": 1200.0})
    assert bool(_spread([faster, slower])) is meets


@pytest.mark.parametrize(
    ("rule", "measured", "error", "verdict"),
    [
        (("least", 0.0), 12.0, 1.0, "reproduced"),
        (("least", 0.0), 10.5, 1.0, "undecided"),
        (("least", 0.0), 8.0, 1.0, "differs"),
        (("points", 2.0), 10.5, 1.0, "reproduced"),
        (("points", 2.0), 10.0, 3.0, "undecided"),
        (("points", 2.0), 20.0, 30.0, "undecided"),
        (("points", 2.0), 20.0, 3.0, "differs"),
        (("share", 0.05), 10.5, 0.0, "reproduced"),
    ],
)
def test_a_headline_is_decided_only_if_its_whole_interval_is(
    rule: tuple[str, float], measured: float, error: float, verdict: str
) -> None:
    assert judge_claim(10.0, measured, *rule, error)[0] == verdict


def test_a_mean_claim_is_of_the_papers_tasks_alone(tmp_path: Path) -> None:
    change = scored({"lomo": 0.8, "lora": 0.7, "zero_shot": 0.5}, stderr=0.01)
    orders = orders_of(tmp_path, accuracy_study("copa", "rte", seeds=[1, 2, 3]), change)
    found = orders["Mean accuracy, LOMO at least LoRA"]
    assert found.verdict == "reproduced"
    assert found.measured is not None and "(over COPA and RTE, the paper over" in found.measured


def test_the_shown_table_counts_what_it_folds_together(built: Path) -> None:
    text = (built / "tables" / "verdicts.md").read_text()
    assert "| Table 3 | not comparable | mini is not one of the paper's models | 84 |" in text
    assert len(pd.read_csv(built / "tables" / "verdicts.csv")) > 199


def test_a_subset_of_the_tasks_says_which_values_it_cannot_test(tmp_path: Path) -> None:
    study = accuracy_study("copa", "rte") | {"data": "superglue"}
    study["superglue"] |= {"models": ["llama-7b"]}
    orders_of(tmp_path, study)
    verdicts = {(v.source, v.what): v for v in all_verdicts(load(tmp_path))}
    absent = verdicts["Table 3", "7B LOMO: BoolQ"]
    assert (absent.verdict, absent.reason) == ("not run", "the study does not ask for BoolQ")
    average = verdicts["Table 3", "7B LOMO: average"]
    assert average.verdict == "not comparable"
    assert average.reason == "not all six tasks are in the study"
    assert verdicts["Table 3", "7B LOMO: COPA"].verdict in ("reproduced", "differs")
    main(["table", "--results", str(tmp_path), "--which", "3"])
    data = pd.read_csv(tmp_path / "tables" / "table3_superglue.csv").set_index(["method", "task"])
    printed_percent = data["printed_percent"]
    assert printed_percent["lomo", "copa"] > 0 and pd.isna(printed_percent["lomo", "average"])
    text = (tmp_path / "tables" / "table3_superglue.md").read_text()
    assert "| model | method | COPA | RTE | average |" in text
