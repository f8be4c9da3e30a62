"""Suites in an export: each score is the table's, with its records, in the format's own form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import travelling
from synthetic_suites import collected, drawn, spec_of, write

from analysis.export.suite_logs import write_suite_logs
from analysis.records.collected import Collected
from analysis.suites.scored import entries


@pytest.fixture
def study(tmp_path: Path) -> Collected:
    """Two suites and another task of lm-eval's, for the base model and for one that LOMO tuned."""
    specs = [spec_of(s, m) for m in ("base", "lomo") for s in ("mmlu", "gsm8k", "arc_easy")]
    for number, spec in enumerate(specs):
        if spec.run_id != "suite/mini/lomo/gsm8k":
            write(tmp_path, spec, drawn(0.4, number))
    return collected(tmp_path, *specs)


def logs(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in folder.rglob("*.json")]
    return {log["model_info"]["id"]: log for log in found}


def test_each_score_is_the_table_s_and_leads_to_its_records(
    study: Collected, tmp_path: Path
) -> None:
    left = write_suite_logs(study, 1, tmp_path / "out")
    told = logs(tmp_path / "out")
    assert set(told) == {"lomo-repro/mini-base", "lomo-repro/mini-lomo"}
    by_name = {(e.method, e.suite): e for e in entries(study)}
    for name, suites in (("base", ["mmlu", "gsm8k"]), ("lomo", ["mmlu"])):
        log = told[f"lomo-repro/mini-{name}"]
        assert [r["evaluation_result_id"] for r in log["evaluation_results"]] == suites
        for result in log["evaluation_results"]:
            entry = by_name[name, result["evaluation_result_id"]]
            score = result["score_details"]
            assert score["score"] == entry.value
            assert score["details"]["source_records"] == " ".join(entry.run_ids)
            told_of = [score["details"][key] for key in ("num_cut", "num_unfinished")]
            assert told_of == ["0", "unknown"], "none is not the same as nobody knows"
            interval = score["uncertainty"]["confidence_interval"]
            assert (interval["lower"], interval["upper"]) == entry.interval
            assert result["generation_config"]["additional_details"]["num_fewshot"] == "5"
        trained = log["model_info"]["additional_details"]["trained"]
        assert trained == ("no" if name == "base" else "on instructions")
    reasons = {each.what: each.reason for each in left}
    assert "no run of it ended well" in reasons["mini lomo gsm8k"]
    assert "whether more of it is better" in reasons["mini base arc_easy"]
    assert "stay where they are" in reasons["mini base, suites"]


def test_every_eval_ever_accepts_them(study: Collected, tmp_path: Path) -> None:
    of_log = jsonschema.Draft7Validator(travelling.schema("eval"))
    write_suite_logs(study, 1, tmp_path / "out")
    for log in logs(tmp_path / "out").values():
        assert list(of_log.iter_errors(log)) == []
