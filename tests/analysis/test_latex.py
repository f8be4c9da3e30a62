"""LaTeX tables fit a two-column article: no line stands out, no column and no row is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from analysis.page.tables import tables_of
from analysis.records.collected import load
from analysis.text.grid import Block, Cell, Table
from analysis.text.latex import WIDTH, floats
from analysis.text.render import tex_escape, write_table
from analysis.verdicts.at_paper_size import paper_memory

WORDS = "a claim of some length about memory, speed and accuracy, as somebody would write it"


def table(*blocks: Block, name: str = "made", notes: tuple[str, ...] = ()) -> Table:
    return Table(name, "Table 9: made up", WORDS, blocks, notes, pd.DataFrame())


def wide(num_columns: int, num_rows: int) -> Block:
    columns = ["model", "method", *(f"some number {n} (GiB)" for n in range(num_columns))]
    rows = [
        ["llama-7b", f"method {n}", *(f"{1000 * n + k:,}.25" for k in range(num_columns))]
        for n in range(num_rows)
    ]
    return Block(columns, rows, 2, "A wide one")


def long(num_rows: int) -> Block:
    rows = [
        [
            Cell(f"{n}: {WORDS}"),
            Cell("12.55 GiB", printed="12.55"),
            Cell("differs", bold=True),
            WORDS,
        ]
        for n in range(num_rows)
    ]
    return Block(["claim", "measured", "verdict", "why"], rows, 1, None, frozenset({"why"}))


def hostile() -> Block:
    signs = r"50 % of $5 & #1_a {b} \c ~ ^ < > [x]"
    path = "results/published/paper-predictions/memory/llama-7b/lomo"
    return Block(["[model]", "why"], [["[1]", signs], ["[2]", path * 2]], 1, "[heading]")


CASES = {
    "wide": table(wide(24, 4)),
    "long": table(long(90), wide(3, 120), notes=(WORDS * 6, "one & two")),
    "hostile": table(hostile()),
    "empty": table(),
}


@pytest.mark.parametrize("name", CASES)
def test_no_row_and_no_column_is_lost(name: str) -> None:
    made = CASES[name]
    for block in made.blocks:
        parts = [p for f in floats(made) for p in f.parts if p.heading == (block.heading or "")]
        heads = {" ".join(lines) for part in parts for lines in part.heads}
        assert heads == set(block.columns)
        wanted = sorted(cell.text for row in block.cells() for cell in row[block.num_keys :])
        found = [c.text for p in parts for row in p.rows for c in row[block.num_keys :]]
        assert sorted(found) == wanted
        for part in parts:
            assert not any(cell.repeats for cell in part.rows[0])
    assert [f.notes for f in floats(made)] == [False] * (len(floats(made)) - 1) + [True]


def test_a_table_that_fits_stays_in_one_piece(built: Path) -> None:
    made = floats(paper_memory(load(built)))
    assert len(made) == 1 and [len(part.rows) for part in made[0].parts] == [6, 6]
    assert len(floats(CASES["wide"])[0].parts) > 1 and len(floats(CASES["long"])) > 3
    for part in floats(CASES["long"])[0].parts:
        widths = [float(share) for share in re.findall(r"p\{(0\.\d+)", part.columns)]
        assert widths and sum(widths) < 1 and WIDTH < 455


def test_a_bracket_opens_no_option() -> None:
    assert tex_escape("[2]") == "{[}2]"


def compiled(path: Path) -> str:
    """The log of pdflatex; skips the test where there is none."""
    tex = shutil.which("pdflatex")
    found = tex and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, timeout=30)
    if not found or found.returncode:
        pytest.skip("no pdflatex with booktabs: texlive-latex-base, texlive-latex-recommended")
    command = [str(tex), "-interaction=nonstopmode", "-halt-on-error", path.name]
    for _ in range(2):  # the second knows the labels
        done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout[-2000:]
    return path.with_suffix(".log").read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("study", ["built", "paper_like", None])
def test_tables_compile_without_an_overfull_line(
    study: str | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if study is None:
        made = [Table(n, "T", t.caption, t.blocks, t.notes, t.data) for n, t in CASES.items()]
    else:
        collected = load(request.getfixturevalue(study))
        made = [build(collected) for build in tables_of(collected).values()]
    for one in made:
        write_table(one, tmp_path)
    inputs = "\n".join(rf"\input{{{one.name}}}\clearpage" for one in made)
    packages = r"\usepackage{array}\usepackage{booktabs}"
    head = rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}"
    (tmp_path / "all.tex").write_text(f"{head}\n{inputs}\n\\end{{document}}\n")
    log = compiled(tmp_path / "all.tex")
    wrong = re.findall(r"^(?:Overfull.*|LaTeX Warning: .*)$", log, re.MULTILINE)
    assert not wrong, wrong


@pytest.mark.slow
def test_the_summary_is_one_page(built: Path, tmp_path: Path) -> None:
    shutil.copy(built / "report" / "summary.tex", tmp_path)
    log = compiled(tmp_path / "summary.tex")
    assert "Output written on summary.pdf (1 page" in log.replace("\n", "")
    assert not re.findall(r"^(?:Overfull.*|LaTeX Warning: .*)$", log, re.MULTILINE)
