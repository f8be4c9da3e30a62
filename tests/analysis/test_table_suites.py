"""The table of suites: values over seeds, intervals by subject, and what tuning changed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtrit
from synthetic_suites import SUBJECTS, collected, drawn, spec_of, write

from analysis.dashboard.seen import suite_columns
from analysis.statistics.intervals import share_interval
from analysis.statistics.several import holm
from analysis.suites.scored import entries
from analysis.suites.table import table_suites
from analysis.text.render import write_table
from lomo.errors import UserError


def test_an_interval_goes_by_subject(tmp_path: Path) -> None:
    spec, outcomes = spec_of("mmlu"), drawn(0.4, 1)
    write(tmp_path, spec, outcomes)
    (entry,) = entries(collected(tmp_path, spec))
    every = np.concatenate([np.array(values) for values in outcomes.values()])
    mean, num = every.mean(), len(every)
    sums = [sum(values) - mean * len(values) for values in outcomes.values()]
    variance = 3 / 2 * sum(each**2 for each in sums) / num**2
    half = -float(stdtrit(2, 0.025)) * math.sqrt(variance)
    assert entry.value == pytest.approx(mean)
    assert entry.interval == pytest.approx((max(0, mean - half), min(1, mean + half)), rel=1e-9)


def test_without_subjects_a_share_has_the_interval_of_shares(tmp_path: Path) -> None:
    spec = spec_of("gsm8k")
    write(tmp_path, spec, {"gsm8k": [1.0] * 3 + [0.0] * 17})
    (entry,) = entries(collected(tmp_path, spec))
    assert entry.interval == pytest.approx(share_interval(0.15, 20))


def test_a_value_over_seeds_is_their_mean(tmp_path: Path) -> None:
    specs = [spec_of("mmlu", seed=seed) for seed in (1, 2, 3)]
    for spec in specs:
        write(tmp_path, spec, drawn(0.5, int(spec.seed or 0)))
    (entry,) = entries(collected(tmp_path, *specs))
    values = [score.value for score in entry.scores]
    assert entry.value == pytest.approx(sum(values) / 3)
    assert entry.interval is not None and entry.interval[0] < min(values) < max(values) < 1
    assert len(entry.runs) == 3


def test_a_change_is_paired_and_corrected_over_the_table(tmp_path: Path) -> None:
    """All examples of `far` turned right; `near` is as it was; both against one base model."""
    base, far, near = spec_of("mmlu"), spec_of("mmlu", "lomo"), spec_of("mmlu", "adamw")
    outcomes = {name: [0.0] * num for name, num in SUBJECTS.items()}
    write(tmp_path, base, outcomes)
    write(tmp_path, far, {name: [1.0] * len(values) for name, values in outcomes.items()})
    write(tmp_path, near, outcomes)
    table = table_suites(collected(tmp_path, near, far, base))
    assert [row[1] for row in table.blocks[0].rows] == ["base", "AdamW", "LOMO"]
    data = table.data.set_index("method")
    assert data.loc["lomo", "change"] == 1.0 and data.loc["adamw", "change"] == 0.0
    assert pd.isna(data.loc["base", "change"])
    ps = [data.loc[name, "p"] for name in ("adamw", "lomo")]
    assert ps[0] == 1.0 and ps[1] < 0.05
    assert [data.loc[n, "p_holm"] for n in ("adamw", "lomo")] == pytest.approx(holm(ps))
    unlike, alike = (row[2] for row in reversed(table.blocks[1].rows))
    assert str(unlike) == "+100.0" and unlike.bold and not alike.bold
    assert "One seed" in " ".join(table.notes)


def test_other_prompts_are_no_pair(tmp_path: Path) -> None:
    base, tuned = spec_of("mmlu"), spec_of("mmlu", "lomo")
    write(tmp_path, base, drawn(0.5, 1))
    write(tmp_path, tuned, drawn(0.6, 2), prompt="q")
    table = table_suites(collected(tmp_path, base, tuned))
    assert table.data.set_index("method").loc["lomo", "reason"] == (
        "the two were asked different prompts"
    )
    assert "a: the two were asked different prompts." in table.notes


def test_what_has_no_record_or_did_not_end_well_is_told(tmp_path: Path) -> None:
    base, other = spec_of("mmlu"), spec_of("bbh")
    write(tmp_path, base, drawn(0.5, 1))
    table = table_suites(collected(tmp_path, base, other))
    assert list(table.data["status"]) == ["ok", "not_run"]
    assert [str(cell) for cell in table.blocks[0].rows[0][3:]] == ["\N{EN DASH}", "\N{EN DASH}"]
    record = json.loads((tmp_path / "runs" / base.run_id / "record.json").read_text())
    record |= {"status": "unsupported", "evidence": "no network", "score": None}
    record["run_id"], record["spec"] = other.run_id, other.model_dump(mode="json")
    record["missing"] = {"score": "-", "model": "-", "reused_from": "-"}
    path = tmp_path / "runs" / other.run_id
    path.mkdir(parents=True)
    (path / "record.json").write_text(json.dumps(record))
    table = table_suites(collected(tmp_path, base, other))
    assert str(table.blocks[0].rows[0][3]) == "unsupported"
    assert "a: no network." in table.notes


def test_the_caption_names_how_it_is_scored_and_cuts_are_told(tmp_path: Path) -> None:
    spec = spec_of("mmlu")
    write(tmp_path, spec, drawn(0.5, 1), num_cut=3)
    table = table_suites(collected(tmp_path, spec))
    assert "MMLU: by letter; 5-shot; n 40 in 3 subjects." in table.caption
    assert "a: 3 of 40 prompts were longer than the model and lost their head." in table.notes
    for path in write_table(table, tmp_path):
        assert path.stat().st_size > 0


def test_answers_without_an_end_are_told_of_each_row(tmp_path: Path) -> None:
    base, tuned = spec_of("gsm8k"), spec_of("gsm8k", "lomo", 42)
    write(tmp_path, base, drawn(0.5, 1), max_gen_toks=64, num_unfinished=3)
    write(tmp_path, tuned, drawn(0.5, 2), max_gen_toks=64, num_unfinished=12)
    table = table_suites(collected(tmp_path, base, tuned))
    assert "5-shot; answers of at most 64 tokens; n 40" in table.caption
    (note,) = [note for note in table.notes if "without an end" in note]
    assert note.startswith("GSM8K: answers that took all their tokens")
    assert note.endswith("base 3 of 40, LOMO 12 of 40.")
    assert list(table.data["num_unfinished"]) == [3, 12]


def test_a_contradicted_record_stops_the_table(tmp_path: Path) -> None:
    spec = spec_of("mmlu")
    write(tmp_path, spec, drawn(0.5, 1), value=0.99)
    with pytest.raises(UserError, match="score.value is"):
        table_suites(collected(tmp_path, spec))


def test_a_dashboard_has_a_panel_for_each_suite_of_a_model(tmp_path: Path) -> None:
    columns = suite_columns(collected(tmp_path, spec_of("mmlu"), spec_of("gsm8k")))
    assert [(column.key, column.title) for column in columns] == [
        ("suite_score/mini/mmlu", "MMLU, mini"),
        ("suite_score/mini/gsm8k", "GSM8K, mini"),
    ]
