"""The table and the figure of instruction tuning, from made-up records."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import synthetic
import synthetic_instruct as made
from matplotlib.figure import Figure

from analysis.cli import main
from analysis.export.reported import variants_of
from analysis.figures.all import figures_of
from analysis.instruct.figure import figure_instruct
from analysis.instruct.table import table_instruct
from analysis.instruct.tuned import tuned
from analysis.records.collected import Collected, load
from lomo.record.evidence import perplexity_of


@pytest.fixture
def items(tmp_path: Path) -> str:
    file = tmp_path / "items.json"
    file.write_text(json.dumps([{"instruction": f"{i}", "output": "x"} for i in range(200)]))
    return str(file)


def collected(folder: Path, study: dict[str, Any], change: Any = None) -> Collected:
    made.write_results(folder, synthetic.plan_of(study), change)
    assert main(["collect", "--results", str(folder)]) == 0
    return load(folder)


def paired(specs: list[Any], base: Any) -> tuple[float, float, float]:
    """Low, ratio and high: each example with itself, by an error that leaves examples out."""

    def ratio(left_out: int | None) -> float:
        total = number = 0.0
        for index, sample in enumerate(made.samples(base)):
            if index != left_out:
                ours = [-made.samples(spec)[index]["log_likelihood"] for spec in specs]
                total += sum(ours) / len(ours) + sample["log_likelihood"]
                number += sample["num_tokens"]
        return total / number

    mean = ratio(None)
    left_out = [ratio(index) for index in range(20)]
    middle = sum(left_out) / 20
    error = math.sqrt(19 / 20 * sum((each - middle) ** 2 for each in left_out))
    ends = [math.exp(mean + sign * 2.093024 * error) for sign in (-1, 1)]
    return ends[0], math.exp(mean), ends[1]


@pytest.mark.parametrize("protocol", ["sound", "paper"])
def test_a_method_is_told_by_its_mean_loss(items: str, protocol: str, tmp_path: Path) -> None:
    study = made.study_dict(items, protocol=protocol)
    found = collected(tmp_path / "results", study)
    table = table_instruct(found)
    data = table.data.set_index("method")
    assert list(data.index) == ["zero_shot", "lora", "sgd", "lomo"]
    plan = synthetic.plan_of(study)
    for method in ("lora", "sgd", "lomo"):
        specs: list[Any] = [spec for spec in plan.runs.values() if spec.method == method]
        each = [perplexity_of(made.samples(spec)) for spec in specs]
        mean = sum(one.nll_per_token for one in each) / 3
        row = data.loc[method]
        assert row["perplexity"] == pytest.approx(math.exp(mean))
        # Student's t with 19 degrees of freedom.
        error = sum(one.stderr / one.value for one in each if one.stderr is not None) / 3
        low, high = (math.exp(mean + sign * 2.093024 * error) for sign in (-1, 1))
        assert row["perplexity_low"] == pytest.approx(low, rel=1e-5)
        assert row["perplexity_high"] == pytest.approx(high, rel=1e-5)
        assert row["seeds_low"] < row["perplexity"] < row["seeds_high"]
        assert row["padding_share"] == pytest.approx(0.05)
        assert row["last_epoch_loss"] == pytest.approx(3.0 - 0.03 * 15.5)
        assert row["num_seeds"] == 3
        (base,) = [spec for spec in plan.runs.values() if spec.method == "zero_shot"]
        low, ratio, high = paired(specs, base)
        assert row["over_zero_shot"] == pytest.approx(ratio)
        assert row["over_zero_shot_low"] == pytest.approx(low, rel=1e-5)
        assert row["over_zero_shot_high"] == pytest.approx(high, rel=1e-5)
        assert high - low < (row["perplexity_high"] - row["perplexity_low"]) / 10
    assert data.loc["zero_shot", "num_seeds"] == 1
    text = "\n".join(table.notes)
    assert "98 trained on, 7 answers of which lost their end; 2 left out" in text
    assert "4 whose prompt is held out or selects" in text
    assert ("lower bounds" in table.caption) == (protocol == "paper")


def test_the_trial_that_selects_is_told(items: str, tmp_path: Path) -> None:
    grids = {method: {"learning_rate": [0.1, 0.2]} for method in ("lora", "sgd", "lomo")}
    found = collected(tmp_path / "results", made.study_dict(items, instruct={"grids": grids}))
    assert {each.trial for each in tuned(found)} == {0}


def test_what_failed_or_has_no_record_stands_in_its_row(items: str, tmp_path: Path) -> None:
    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any] | None:
        if "/lora-r2/s1" in run_id or "/sgd/" in run_id:
            return synthetic.failed(record, "diverged")
        return None if "/lomo/" in run_id else record

    table = table_instruct(collected(tmp_path / "results", made.study_dict(items), change))
    data = table.data.set_index("method")
    assert data["status"].to_dict() == {
        "zero_shot": "ok",
        "lora": "ok",
        "sgd": "diverged",
        "lomo": "not_run",
    }
    rows = {str(row[0]): [str(cell) for cell in row] for row in table.blocks[0].rows}
    assert rows["LoRA"][-1] == "2 of 3" and rows["SGD"][1] == "diverged"
    assert rows["SGD"][-1] == "0 of 3" and rows["LOMO"][1] == "\N{EN DASH}"
    assert "Without a value: mini SGD (diverged)." in table.notes


def test_other_studies_have_neither(built: Path) -> None:
    found = load(built)
    assert "instruct" not in figures_of(found)
    table = table_instruct(found)
    assert table.caption == "Not run: the study has no instruct section." and not table.blocks
    assert isinstance(figure_instruct(found), Figure)


def test_the_figure_has_a_line_a_method(items: str, tmp_path: Path) -> None:
    found = collected(tmp_path / "results", made.study_dict(items))
    figure = figures_of(found)["instruct"][1](found)
    # What others can't take is told when a study is exported.
    variants, left = variants_of(found)
    assert not variants and [each.what.split(":")[0] for each in left] == ["instruct"]
    losses, scores = figure.axes
    assert len(losses.lines) == len(scores.lines) == 3
    assert [len(line.get_xdata()) for line in scores.lines] == [2, 2, 2]  # type: ignore[arg-type]
    assert list(scores.lines[0].get_xdata()) == [10, 20]
    values = list(scores.lines[0].get_ydata())
    assert values[0] == pytest.approx(float(values[1]) + 0.5)  # not in percent


@pytest.mark.slow
def test_the_page_has_both(items: str, tmp_path: Path) -> None:
    made.write_results(tmp_path / "results", synthetic.plan_of(made.study_dict(items)))
    assert main(["all", "--results", str(tmp_path / "results")]) == 0
    page = (tmp_path / "results" / "report" / "index.html").read_text()
    assert "Instruction tuning: perplexity of held-out answers" in page
    assert "perplexity after each epoch" in page
