"""A user's text in a table: no tag in Markdown, no formula in a spreadsheet, numbers untouched."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
import synthetic

from analysis.cli import main
from analysis.text.render import csv_safe, csv_text, md_escape


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "+cmd|' /C calc'!A0", "-2+3", "\t=1", "-x"])
def test_a_formula_gets_a_quote_in_front(text: str) -> None:
    assert csv_safe(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-5", "+1.5", "-1,234.5 GiB", "-1e-3", "-2.0 %", "a=1", "", "–"])
def test_a_number_and_other_text_stay(text: str) -> None:
    assert csv_safe(text) == text


def test_only_text_is_changed_in_a_csv() -> None:
    data = pd.DataFrame({"model": ["=a", None, "b"], "x": [-1.5, 2.0, None], "n": [-1, 2, 3]})
    read = pd.read_csv(io.StringIO(csv_text(data)))
    assert read["model"].tolist()[::2] == ["'=a", "b"] and pd.isna(read["model"][1])
    assert read["x"].tolist()[:2] == [-1.5, 2.0] and read["n"].tolist() == [-1, 2, 3]
    whole = data.astype({"model": "string", "n": "Int64"})
    assert csv_text(whole) == csv_text(data)


def test_markdown_shows_a_tag_and_a_link_as_text() -> None:
    assert md_escape("<b>a</b> | c") == r"&lt;b>a&lt;/b> \| c"
    assert md_escape("[a](http://b)") == r"[a]\(http://b)"
    assert md_escape("two\nlines") == "two lines"
    assert md_escape("LOMO < SGD, a -> b") == "LOMO < SGD, a -> b"


@pytest.mark.slow
def test_a_users_note_and_names_are_text_everywhere(tmp_path: Path) -> None:
    study = synthetic.study_dict(note="<script>alert(1)</script> costs $5 and $6")
    study["superglue"] |= {"tasks": ["rte"], "methods": ["lomo"], "grids": {}}
    study = {key: study[key] for key in ("study", "title", "data", "note", "superglue")}
    synthetic.write_results(tmp_path, synthetic.plan_of(study))
    assert main(["all", "--results", str(tmp_path)]) == 0
    for path in [*tmp_path.glob("tables/*.md"), *tmp_path.glob("tables/*.html")]:
        assert "<script>alert" not in path.read_text(), path.name
    assert "&lt;script>alert(1)" in (tmp_path / "tables" / "table3_superglue.md").read_text()
