"""The table and the figure of peers, from records with made-up numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from analysis.cli import main
from analysis.figures.peers import figure_peers
from analysis.page.tables import make_table
from analysis.records.collected import Collected, load
from analysis.records.peers import entries
from analysis.tables.peers import over_text, table_peers
from analysis.text.units import MIB
from lomo.errors import UserError

MIBS = 2**20
FLOOR_BYTES = 100 * MIBS
OURS = {"method": "lomo"}
CLIPPED = {"method": "lomo", "max_grad_norm": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "floor": {"method": "floor", "title": "the floor"},
    "sgd": {"method": "torch_sgd"},
    "theirs": {"method": "lomo_optim", "max_grad_norm": 1.0},
    "ours": {**OURS, "target": {"over_floor_bytes": 0, "time_ratio": 1.06}},
    "clipped": {**CLIPPED, "target": {"over_floor_bytes": 4 * MIBS, "time_ratio": 1.9}},
    "below": {
        **OURS,
        "hyper": {"update": "gemm"},
        "target": {"over_floor_bytes": -1, "time_ratio": 1.06},
    },
    "own": {**CLIPPED, "hyper": {"norm_scope": "parameter"}},
    "last": {**CLIPPED, "hyper": {"norm_scope": "previous_step"}},
    "ghost": {**CLIPPED, "hyper": {"update": "gemm"}},
    "ada": {"method": "adalomo"},
}
# Bytes over the floor; the fastest step of each round, in units of the floor's.
COSTS: dict[str, tuple[int, tuple[float, float, float]]] = {
    "floor": (0, (1.0, 1.0, 1.0)),
    "sgd": (5 * MIBS, (1.09, 1.1, 1.08)),
    "theirs": (50 * MIBS, (2.5, 2.7, 2.6)),
    "ours": (0, (1.03, 1.05, 1.04)),
    "clipped": (4 * MIBS + 1, (1.8, 2.1, 1.95)),
    "below": (-300, (1.01, 1.0, 1.02)),
    "own": (0, (1.1, 1.1, 1.1)),
    "last": (0, (1.1, 1.1, 1.1)),
    "ghost": (0, (1.6, 1.6, 1.6)),
    "ada": (0, (1.5, 1.5, 1.5)),
}
# Seconds of the floor's fastest step: the machine drifts, the ratios do not.
FLOOR_S = (0.2, 0.4, 0.3)


def study(**changes: Any) -> dict[str, Any]:
    section = {"models": ["mini"], "variants": VARIANTS, "batch_size": 2, "sequence_length": 128}
    return {
        "study": "made-up",
        "title": "t",
        "data": "generated",
        "note": "A note.",
        "peers": {**section, **changes},
    }


def written(
    folder: Path, change: synthetic.Change | None = None, given: dict[str, Any] | None = None
) -> Collected:
    plan = synthetic.plan_of(given or study())

    def measured(run_id: str, record: dict[str, Any]) -> dict[str, Any] | None:
        over, _ = COSTS[record["spec"]["variant"]]
        memory = {**record["memory"], "peak_bytes": FLOOR_BYTES + over}
        record = {**record, "memory": memory}
        return change(run_id, record) if change else record

    synthetic.write_results(folder, plan, measured)
    for run_id, spec in plan.runs.items():
        fastest = COSTS[spec.variant][1][spec.round - 1] * FLOOR_S[spec.round - 1]
        # Warm-up may be anything; of the timed steps the fastest counts.
        seconds = [0.001, 9.0, 1.7 * fastest, fastest, 2 * fastest]
        lines = [{"event": "step", "step": n, "step_s": s} for n, s in enumerate(seconds, start=1)]
        synthetic._write_lines(folder / "runs" / run_id / "history.jsonl", lines)
    synthetic.collect_unquestioned(folder)
    return load(folder)


def test_time_is_told_over_the_floor_of_the_same_round(tmp_path: Path) -> None:
    found = {entry.variant: entry for entry in entries(written(tmp_path))}
    assert list(found) == list(VARIANTS)
    for name, (over, ratios) in COSTS.items():
        assert found[name].time_ratios == pytest.approx(ratios), name
        assert found[name].time_ratio == pytest.approx(sorted(ratios)[1])
        assert found[name].over_floor_bytes == over
        assert found[name].memory_ratio == (FLOOR_BYTES + over) / FLOOR_BYTES
    assert found["floor"].title == "the floor" and found["sgd"].title == "sgd"


def test_targets_are_met_or_not(tmp_path: Path) -> None:
    found = {entry.variant: entry for entry in entries(written(tmp_path))}
    verdicts = {name: (entry.memory_met, entry.time_met) for name, entry in found.items()}
    assert verdicts["ours"] == (True, True)
    assert verdicts["clipped"] == (False, False)  # by one byte; by the median
    assert verdicts["below"] == (True, True)
    assert verdicts["sgd"] == (None, None)


def test_a_target_that_is_just_reached_is_met(tmp_path: Path) -> None:
    found = {entry.variant: entry for entry in entries(written(tmp_path))}
    for ratios, met in (((1.9,), True), ((1.5, 1.9, 2.5), True), ((1.9, 1.91), False)):
        at_it = replace(found["clipped"], time_ratios=ratios)
        assert at_it.time_met is met
    assert replace(found["clipped"], time_ratios=(1.9, 1.8)).rounds_agree
    assert not replace(found["clipped"], time_ratios=(1.9, 1.91)).rounds_agree
    assert replace(found["clipped"], over_floor_bytes=4 * MIBS).memory_met


def test_the_table_shows_ratios_spreads_and_exact_bytes(tmp_path: Path) -> None:
    collected = written(tmp_path)
    make_table(collected, "peers")
    text = (tmp_path / "tables" / "table_peers.md").read_text()
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert "105.00" in lines["sgd"] and "+5.00" in lines["sgd"]
    assert "1.09 (1.08 to 1.10)" in lines["sgd"]
    assert "300 B" in lines["below"] and "below the floor: met" in lines["below"]
    assert "at most 1.9: not met, rounds disagree" in lines["clipped"]
    assert lines["ours"].rstrip(" |").endswith("at most 1.06: met")
    assert "A note." in text
    low, high = stats.ttest_1samp(np.log(COSTS["clipped"][1]), 0).confidence_interval(0.95)
    assert f"| {np.exp(low):.2f} to {np.exp(high):.2f} |" in lines["clipped"]
    data = pd.read_csv(tmp_path / "tables" / "table_peers.csv").set_index("variant")
    assert data.loc["clipped", "over_floor_bytes"] == 4 * MIBS + 1
    assert data.loc["sgd", "time_ratios"] == "1.0900 1.1000 1.0800"
    p = stats.ttest_1samp(np.log(COSTS["clipped"][1]), np.log(1.9)).pvalue
    assert data.loc["clipped", "time_p"] == pytest.approx(p, rel=1e-4)
    assert pd.isna(data.loc["sgd", "time_p"])


def test_each_way_to_clip_has_its_words(tmp_path: Path) -> None:
    words = {entry.variant: entry.clipping for entry in entries(written(tmp_path))}
    assert words == {
        **dict.fromkeys(("floor", "sgd", "ours", "below"), "none"),
        "theirs": "global norm: backward, forward again, backward",
        "clipped": "global norm, exact: two backwards",
        "own": "each tensor by its own norm",
        "last": "global norm of the step before",
        "ghost": "global norm, exact: ghost norms, two backwards",
        "ada": "none needed: normalised update",
    }


def test_what_failed_or_is_missing_is_shown_as_such(tmp_path: Path) -> None:
    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any] | None:
        variant, number = record["spec"]["variant"], record["spec"]["round"]
        if variant == "sgd":
            return synthetic.failed(record, "oom")
        if variant == "ada":
            return None
        if variant == "ours" and number == 2:
            return synthetic.failed(record, "diverged")
        return record

    collected = written(tmp_path, change)
    rows = {row[0]: row for row in table_peers(collected).blocks[0].rows}
    assert rows["sgd"][2:6] == ["OOM", "–", "–", "–"]
    assert rows["ada"][2] == "–"
    assert rows["ours"][2].remark == "2 of 3 rounds, else diverged"
    assert rows["ours"][4].text == "1.03" or rows["ours"][4].text == "1.04"
    figure_peers(collected)


def test_without_a_floor_there_are_peaks_and_no_ratios(tmp_path: Path) -> None:
    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        return synthetic.failed(record, "oom") if "/floor/" in run_id else record

    collected = written(tmp_path, change)
    rows = {row[0]: row for row in table_peers(collected).blocks[0].rows}
    assert rows["ours"][2].text == "100.00" and rows["ours"][3:6] == ["–", "–", "–"]
    assert rows["ours"][6] == "at the floor: –"
    assert figure_peers(collected).texts[1].get_text() == "not run: the floor was not measured"


def test_a_history_that_is_gone_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    collected = written(tmp_path)
    (tmp_path / "runs" / collected.rows("peers")[0].run_id / "history.jsonl").unlink()
    with pytest.raises(UserError, match="holds no timed step"):
        entries(collected)


@pytest.mark.slow
def test_the_report_holds_table_and_figure_only_where_the_study_has_peers(
    tmp_path: Path, built: Path
) -> None:
    written(tmp_path)
    for command in ("table", "figure", "report"):
        assert main([command, "--results", str(tmp_path)]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Peers: memory and time of one step" in page and "<b>Peers.</b>" in page
    assert (tmp_path / "figures" / "fig_peers.svg").is_file()
    without = (built / "report" / "index.html").read_text()
    assert "Peers" not in without and "<b>Figure 1.</b>" in without
    assert not list(built.rglob("*peers*"))


def test_settings_stand_in_blocks_of_their_own(tmp_path: Path) -> None:
    collected = written(tmp_path, given=study(activation_checkpointing=[False, True]))
    headings = [block.heading for block in table_peers(collected).blocks]
    assert headings == ["mini, checkpointing off", "mini, checkpointing on"]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0.00"), (-1, "−1 B"), (5000, "+5000 B"), (6 * MIBS, "+6.00"), (None, "–")],
)
def test_few_bytes_do_not_hide_behind_a_zero(num_bytes: int | None, text: str) -> None:
    assert over_text(num_bytes, MIB) == text


def test_the_spread_of_a_point_is_that_of_its_rounds(tmp_path: Path) -> None:
    figure = figure_peers(written(tmp_path))
    spans = [
        tuple(round(float(x), 2) for x in segment[:, 0])
        for collection in figure.axes[0].collections
        for segment in collection.get_segments()
    ]
    assert (1.8, 2.1) in spans and (1.08, 1.1) in spans
    named = {text.get_text() for axes in figure.axes for text in axes.texts} - {""}
    assert named == {asked.get("title", name) for name, asked in VARIANTS.items()}


@pytest.mark.parametrize(
    ("names", "num_panels"),
    [(["theirs", "ours"], 1), (["theirs", "ours", "sgd"], 2), (["ours", "sgd", "own"], 1)],
    ids=["two near", "three near", "all near"],
)
def test_points_near_the_floor_get_a_panel_where_there_are_some(
    names: list[str], num_panels: int, tmp_path: Path
) -> None:
    """The floor is one of those near; more than two, and others further off."""
    given = study(variants={name: VARIANTS[name] for name in ["floor", *names]})
    assert len(figure_peers(written(tmp_path, given=given)).axes) == num_panels


def test_the_plan_of_the_table_is_not_the_specs(tmp_path: Path) -> None:
    """A title or a target that is edited repeats no run."""
    plan = synthetic.plan_of(study())
    for spec in plan.runs.values():
        assert not {"title", "target"} & set(json.loads(spec.model_dump_json()))
