"""The summary: its order, its claims with verdict, n and p, and no number of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import synthetic

from analysis.cli import main
from analysis.page.findings import CLAIMS, findings
from analysis.page.one_page import FORMATS, make_summary
from analysis.page.reproduction import Section, sections
from analysis.paper.printed import FILES, printed
from analysis.paper.questions import errata, open_questions
from analysis.records.collected import Collected, load
from analysis.text.units import p_text
from analysis.verdicts.all import all_verdicts

ROOT = Path(__file__).parents[2]
ORDER = [
    "Scope of reproducibility",
    "Methodology",
    "Results",
    "What was easy",
    "What was difficult",
    "Open questions of the paper, and what was assumed",
    "Communication with the authors",
]


def by_title(collected: Collected) -> dict[str, Section]:
    return {section.title: section for section in sections(collected)}


def collected_of(results: Path, study: dict[str, Any], change: Any = None) -> Collected:
    synthetic.write_results(results, synthetic.plan_of(study), change)
    assert main(["collect", "--results", str(results)]) == 0
    return load(results)


def test_the_report_has_it_in_each_format_and_in_the_order_of_such_reports(built: Path) -> None:
    for suffix in FORMATS:
        assert (built / "report" / f"summary.{suffix}").is_file()
    text = (built / "report" / "summary.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == ORDER
    assert len(text.splitlines()) < 80
    assert 'href="summary.html"' in (built / "report" / "index.html").read_text(encoding="utf-8")


def test_every_claim_stands_there_with_its_verdict_n_and_p(built: Path) -> None:
    collected = load(built)
    verdicts = all_verdicts(collected)
    found = findings(verdicts)
    table = by_title(collected)["Results"].table
    assert table is not None
    rows = {row["claim"]: row for row in table.data.to_dict("records")}
    assert list(rows) == [claim.text for claim in CLAIMS] == [one.text for one in found]
    for one in found:
        row = rows[one.text]
        for name, number in one.verdicts:
            assert name in row["verdict"]
            assert number == 1 or str(number) in row["verdict"]
        known = [v.tested.p for v in one.of if v.tested and v.tested.p is not None]
        assert row["p"].split(" to ")[0] == (p_text(min(known)) if known else "\N{EN DASH}")
        assert row["p"].split(" to ")[-1] == (p_text(max(known)) if known else "\N{EN DASH}")
        if known and one.kind == "accuracy":
            assert re.search(r"\d seeds?, [\d,]+ examples", row["n"])


def test_each_format_says_the_same(built: Path) -> None:
    texts = {
        suffix: (built / "report" / f"summary.{suffix}").read_text(encoding="utf-8")
        for suffix in FORMATS
    }
    plain = {
        "md": texts["md"],
        "html": re.sub(r"<[^>]+>", " ", texts["html"]),
        "tex": texts["tex"].replace(r"\%", "%").replace(r"\allowbreak{}", "").replace("/\\", "/"),
    }
    for section in sections(load(built)):
        for text in (section.title, *section.points):
            words = re.findall(r"[A-Za-z]{3,}", text)
            for suffix, whole in plain.items():
                assert set(words) <= set(re.findall(r"[A-Za-z]{3,}", whole)), (suffix, text)


def test_what_was_difficult_tells_of_runs_and_verdicts(paper_like: Path) -> None:
    collected = load(paper_like)
    found = by_title(collected)
    points = " ".join(found["What was difficult"].points)
    lost = collected.runs["status"].value_counts()
    assert f"{lost['oom']} OOM" in points
    assert f"{lost['diverged']} diverged" in points
    assert f"{lost['not_run']} without a record" in points
    assert "Every run" not in " ".join(found["What was easy"].points)


def test_a_study_that_was_not_run_claims_nothing(tmp_path: Path) -> None:
    study = synthetic.study_dict()
    collected = collected_of(tmp_path / "made-up", study, lambda *_: None)
    found = by_title(collected)
    num = len(collected.runs)
    assert f"Runs that did not end well: {num} without a record." in found[ORDER[4]].points
    assert f"0 of {num} planned runs have a record, on no device" in found["Methodology"].points[1]
    table = found["Results"].table
    assert table is not None
    own = [row for row in table.data.to_dict("records") if "predicted" not in row["stands on"]]
    assert {row["stands on"] for row in own} == {"never run"}
    assert [path.name for path in make_summary(tmp_path / "made-up")] == [
        f"summary.{suffix}" for suffix in FORMATS
    ]


def test_the_file_of_questions_brings_no_number_along() -> None:
    """What it counts is a table, a figure, an issue or the width of a number; the rest is words."""
    named = re.compile(
        r"(Table|Figure|issue|June) \d+|\b(16|32)([ -])bits?|docs/decisions/\d+|MeZO"
    )
    for one in open_questions():
        assert one.note in ("V", "I")
        assert not re.search(r"\d", named.sub("", " ".join(one))), one
        assert (ROOT / one.stands_in).is_file(), one.stands_in


def test_the_errata_are_those_of_the_printed_tables() -> None:
    notes = [cell.note for name in FILES for cell in printed(name).itertuples()]
    assert len(errata()) == sum("erratum" in note for note in notes) > 0
    first = errata()[0]
    assert first == (
        "Table 1, 7B AdamW, plain: total: 147.02 GiB is printed; "
        "the row's columns sum to 146.02, 1.00 less."
    )


@pytest.mark.parametrize("suffix", ["md", "html", "tex"])
def test_signs_of_a_title_do_no_harm(suffix: str, tmp_path: Path) -> None:
    title = r"50 % of $x_1$ & <b>#{2}</b> | [a](b)"
    collected_of(tmp_path / "made-up", synthetic.study_dict(title=title))
    make_summary(tmp_path / "made-up")
    text = (tmp_path / "made-up" / "report" / f"summary.{suffix}").read_text(encoding="utf-8")
    harm = {"md": ("<b>", "](b)"), "html": ("<b>",), "tex": ("$x_1$", " % of", "#{2}")}
    assert not [sign for sign in harm[suffix] if sign in text]
