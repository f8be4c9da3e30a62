"""results/index.html: each study with what it has, and nothing that leads nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_report_page import Page

from analysis.cli import main
from analysis.page.landing import make_landing


@pytest.fixture
def root(built: Path, tmp_path: Path) -> Path:
    """Two studies, one of them just begun, an export of one, and published results."""
    root = tmp_path / "results"
    for name in ("plan.json", "report", "tables", "figures"):
        source = built / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        (root / "made-up").mkdir(parents=True, exist_ok=True)
        copy(source, root / "made-up" / name)
    (root / "begun").mkdir()
    (root / "begun" / "plan.json").write_text('{"study": {"title": "A study <just> begun"')
    (root / "made-up-export").mkdir()
    (root / "made-up-export" / "ro-crate-metadata.json").touch()
    (root / "published" / "old").mkdir(parents=True)
    (root / "published" / "old" / "README.md").write_text("# Measured long ago\n\nwords\n")
    return root


def test_each_study_stands_there_with_what_it_has(root: Path) -> None:
    path = make_landing(root)
    page, text = Page(path), path.read_text(encoding="utf-8")
    assert path == root / "index.html" and page.dead() == [] and page.loaded == []
    assert {
        "made-up/report/index.html",
        "made-up/report/summary.html",
        "made-up/tables/table3_superglue.html",
        "made-up/figures/overview.svg",
        "made-up/tables/records.csv",
        "made-up-export/ro-crate-metadata.json",
        "published/old/README.md",
    } <= set(page.links)
    assert "Measured long ago" in text and " ok</p>" in text
    assert "its plan.json is no whole plan" in text and "no tables yet" in text


def test_it_is_made_with_a_report_and_nowhere_but_in_a_folder_of_results(
    root: Path, built: Path
) -> None:
    shutil.copytree(built / "runs", root / "made-up" / "runs")
    assert main(["report", "--results", str(root / "made-up")]) == 0
    assert (root / "index.html").is_file()
    assert not (built.parent / "index.html").exists()
