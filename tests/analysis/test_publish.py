"""What is published is a whole copy that makes the same tables, and is never overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic

from analysis.cli import main
from analysis.page.publish import publish
from lomo.errors import UserError


def measured_study() -> dict[str, Any]:
    study = synthetic.study_dict()
    for section in ("superglue", "lora_rank"):
        study.pop(section)
    return study


def without(*missing: str) -> synthetic.Change:
    return lambda run_id, record: None if run_id.startswith(missing) else record


def test_tables_of_a_published_folder_are_those_of_the_study(tmp_path: Path) -> None:
    results, to = tmp_path / "results" / "made-up", tmp_path / "published" / "made-up"
    synthetic.write_results(results, synthetic.plan_of(measured_study()))
    publish(results, to)
    for folder in (results, to):
        assert main(["collect", "--results", str(folder)]) == 0
        assert main(["table", "--results", str(folder)]) == 0
        assert main(["figure", "--results", str(folder), "--which", "1"]) == 0
    tables = sorted(path.name for path in (results / "tables").glob("*.csv"))
    assert "table2_throughput.csv" in tables
    for name in tables:
        assert (to / "tables" / name).read_text() == (results / "tables" / name).read_text()
    name = "figures/fig1_gradients.svg"
    assert (to / name).read_text() == (results / name).read_text()


def test_the_readme_tells_what_was_measured_where(tmp_path: Path) -> None:
    results, to = tmp_path / "results", tmp_path / "published" / "made-up"
    plan = synthetic.plan_of(measured_study())

    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any] | None:
        if "/lora/" in run_id:
            return None
        return synthetic.failed(record, "oom") if "/adamw/" in run_id else record

    synthetic.write_results(results, plan, change)
    publish(results, to)
    readme = (to / "README.md").read_text()
    num = len(plan.runs)
    assert f"| runs | {num} planned: {num - 6} ok, 3 OOM and 3 without a record |" in readme
    for expected in ("made-up CPU", "| torch | 2.13.0 |", "2026-01-01", "0" * 40, "protocol"):
        assert expected in readme
    assert not list(to.parent.glob(".*"))


@pytest.mark.parametrize(
    ("commit", "dirty", "told"),
    [
        ("1" * 40, False, "1" * 40),
        ("1" * 40, True, f"{'1' * 40} with uncommitted changes"),
        (None, None, "unknown"),
    ],
)
def test_the_readme_tells_of_uncommitted_changes(
    commit: str | None, dirty: bool | None, told: str, tmp_path: Path
) -> None:
    def change(run_id: str, record: dict[str, Any]) -> dict[str, Any]:
        missing = {} if commit else dict.fromkeys(("git_commit", "git_dirty"), "no repository")
        origin = {"git_commit": commit, "git_dirty": dirty, "missing": missing}
        return record | {"provenance": record["provenance"] | origin}

    study = measured_study()
    study.pop("throughput")
    synthetic.write_results(tmp_path / "results", synthetic.plan_of(study), change)
    publish(tmp_path / "results", tmp_path / "to")
    assert f"| commit | {told} |" in (tmp_path / "to" / "README.md").read_text()


def test_only_what_tables_figures_and_belief_need_is_copied(tmp_path: Path) -> None:
    results, to = tmp_path / "results", tmp_path / "published" / "made-up"
    plan = synthetic.plan_of(measured_study())
    synthetic.write_results(results, plan)
    (results / "logs").mkdir()
    publish(results, to)
    names = {path.name for path in to.rglob("*") if path.is_file()}
    assert names == {"README.md", "plan.json", "record.json", "history.jsonl", "timeline.jsonl"}
    for name in ("history.jsonl", "timeline.jsonl"):
        assert {str(p.parent.relative_to(to / "runs")) for p in to.rglob(name)} == set(plan.runs)


def test_what_is_published_is_never_overwritten(tmp_path: Path) -> None:
    results = tmp_path / "results"
    synthetic.write_results(results, synthetic.plan_of(measured_study()))
    publish(results, tmp_path / "to")
    before = (tmp_path / "to" / "README.md").stat().st_mtime_ns
    with pytest.raises(UserError, match="never changed"):
        publish(results, tmp_path / "to")
    assert (tmp_path / "to" / "README.md").stat().st_mtime_ns == before


def test_a_study_without_records_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    synthetic.write_results(results, synthetic.plan_of(measured_study()), without("measure"))
    assert main(["publish", "--results", str(results), "--to", str(tmp_path / "to")]) == 2
    assert "no run has a record yet" in capsys.readouterr().err
    assert not (tmp_path / "to").exists()
