"""Tables, figures and pages of made-up studies (varied.py) are those in golden/, line by line.

After a change that is meant: `PYTHONPATH=. python tests/analysis/test_golden.py`, and read the
difference that git shows.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import synthetic
import test_table_peers
import varied
from drawn import told
from matplotlib import pyplot

from analysis.collected import Collected
from analysis.figures import figures_of
from analysis.publish import _readme
from analysis.report import origin, summary
from analysis.style import style
from analysis.tables import make_table, tables_of
from lomo.record import read_record

GOLDEN = Path(__file__).parent / "golden"
LOST = {"sgd 2": "oom", "ghost 1": "diverged", "floor 3": "timeout", "ada 1": None}
STUDIES = [pytest.param(name, marks=pytest.mark.slow) for name in ("dev", "peers")] + [
    "test",
    "part",
]


def peers(folder: Path) -> Collected:
    """A study of peers, with rounds that failed and one without a record."""

    def change(run_id: str, record: dict) -> dict | None:
        spec = record["spec"]
        one = f"{spec['variant']} {spec['round']}"
        if one in LOST and spec["activation_checkpointing"]:
            status = LOST[one]
            return None if status is None else synthetic.failed(record, status)
        return record

    given = test_table_peers.study(activation_checkpointing=[True, False])
    return test_table_peers.written(folder, change, given)


def texts(collected: Collected) -> Iterator[tuple[str, str]]:
    """(name of a golden file, what it has to hold)."""
    for which, build in tables_of(collected).items():
        make_table(collected, which)
        table = build(collected)
        yield f"{table.name}.csv", table.data.to_csv(index=False, float_format="%.8g")
        yield f"{table.name}.md", (collected.folder / "tables" / f"{table.name}.md").read_text()
    figures = []
    for _, (name, draw) in figures_of(collected).items():
        with style():
            figure = draw(collected)
        figures.append(f"## {name}\n{told(figure)}")
        pyplot.close(figure)
    yield "figures.txt", "\n".join(figures)
    records = {
        run_id: read_record(collected.run_folder(run_id) / "record.json")
        for run_id, status in collected.runs[["run_id", "status"]].itertuples(index=False)
        if status != "not_run"
    }
    facts = "\n".join(f"{name}: {value}" for name, value in origin(collected))
    readme = _readme(collected.plan, records, Path("results/published/made-up"))
    yield "pages.txt", f"{summary(collected)}\n\n{facts}\n\n{readme}"


def made(name: str, folder: Path) -> dict[str, str]:
    """All texts of a study."""
    collected = peers(folder) if name == "peers" else varied.collected(name, folder)
    return dict(texts(collected))


@pytest.mark.parametrize("name", STUDIES)
def test_all_that_is_shown_is_as_it_was_read_and_found_right(name: str, tmp_path: Path) -> None:
    found = made(name, tmp_path)
    assert set(found) == {path.name for path in (GOLDEN / name).iterdir()}
    for file, text in found.items():
        kept = (GOLDEN / name / file).read_text(encoding="utf-8")
        lines = difflib.unified_diff(kept.splitlines(), text.splitlines(), "golden", "now", n=0)
        assert list(lines) == [], file


def _renew() -> None:
    for name in (*varied.STUDIES, "peers"):
        with TemporaryDirectory() as folder:
            for file, text in made(name, Path(folder)).items():
                (GOLDEN / name).mkdir(parents=True, exist_ok=True)
                (GOLDEN / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(_renew())
