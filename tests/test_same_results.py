"""The proof that a change changed nothing: it sees what differs, and no times."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import same_results

RECORD = {"status": "ok", "clock": {"wall_s": 1.5}, "result": {"value": 0.5}, "spec": {"seed": 1}}
TABLE = "run_id,accuracy,step_s_median\na,0.5,0.1\nb,0.6,0.2\n"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    before, after = tmp_path / "before", tmp_path / "after"
    (before / "runs" / "a").mkdir(parents=True)
    (before / "tables").mkdir()
    (before / "runs" / "a" / "record.json").write_text(json.dumps(RECORD))
    (before / "runs" / "a" / "history.jsonl").write_text('{"loss": 1.0, "step_s": 0.1}\n')
    (before / "tables" / "records.csv").write_text(TABLE)
    (before / "tables" / "records.md").write_text("| a |\n")
    shutil.copytree(before, after)
    return before, after


def found(folders: tuple[Path, Path]) -> dict[str, list[str] | None]:
    return dict(same_results.compared(*folders))


def test_copies_are_equal_to_the_byte(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(found(folders).values()) == {None}
    monkeypatch.setattr(sys, "argv", ["same_results", *map(str, folders)])
    assert same_results.main() == 0
    assert "4 files are equal to the byte" in capsys.readouterr().out


def test_times_are_no_difference(folders: tuple[Path, Path]) -> None:
    _, after = folders
    other = {**RECORD, "clock": {"wall_s": 2.5}, "provenance": {"git_commit": "b"}}
    (after / "runs" / "a" / "record.json").write_text(json.dumps(other))
    (after / "runs" / "a" / "history.jsonl").write_text('{"loss": 1.0, "step_s": 0.3}\n')
    (after / "tables" / "records.csv").write_text(TABLE.replace("0.1\n", "0.9\n"))
    same = found(folders)
    assert same["runs/a/record.json"] == same["runs/a/history.jsonl"] == []
    assert same["tables/records.csv"] == []


def test_who_else_was_there_is_no_difference(folders: tuple[Path, Path]) -> None:
    note = "- Other processes were busy when these runs started: pip (all runs).\n"
    text = folders[1] / "tables" / "records.md"
    text.write_text(text.read_text() + note)
    assert found(folders)["tables/records.md"] == []
    # In LaTeX the note before it gets a line break.
    texts = "A note.\n\\end{x}\n", f"A note.\\\\\n{note[2:]}\\end{{x}}\n"
    for folder, text in zip(folders, texts, strict=True):
        (folder / "tables" / "records.tex").write_text(text)
    assert found(folders)["tables/records.tex"] == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("runs/a/record.json", '"value": 0.5', '"value": 0.51', "result.value: 0.5, then 0.51"),
        ("runs/a/record.json", ', "spec": {"seed": 1}', "", "spec: {'seed': 1}, then None"),
        ("runs/a/history.jsonl", "1.0", "1.1", "[0].loss: 1.0, then 1.1"),
        ("tables/records.csv", "b,0.6", "b,0.7", "line 3, accuracy: '0.6', then '0.7'"),
        ("tables/records.md", "a", "b", "the text differs, its csv does not"),
    ],
)
def test_what_differs_is_named(
    folders: tuple[Path, Path], file: str, old: str, new: str, told: str
) -> None:
    path = folders[1] / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert found(folders)[file] == [told]


def test_a_file_that_one_lacks_and_a_row_too_many_differ(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, after = folders
    (after / "runs" / "a" / "history.jsonl").unlink()
    (after / "tables" / "records.csv").write_text(TABLE + "c,0.7,0.1\n")
    same = found(folders)
    assert "only in" in str(same["runs/a/history.jsonl"])
    assert "line 4, run_id" in str(same["tables/records.csv"])
    monkeypatch.setattr(sys, "argv", ["same_results", *map(str, folders)])
    assert same_results.main() == 1
    assert "2 files differ" in capsys.readouterr().out
