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
from unittest.mock import patch

import pytest
import synthetic
import test_table_ablation
import test_table_fits
import test_table_peers
import test_table_predicted
import varied
from drawn import told
from matplotlib import pyplot
from matplotlib.figure import Figure

from analysis.cli import main
from analysis.figures.ablation import figure_ablation
from analysis.figures.all import figures_of
from analysis.figures.fits import figure_fits
from analysis.page.publish import _readme
from analysis.page.report import origin, summary
from analysis.page.tables import make_table, tables_of
from analysis.paper import predictions as paper_predictions
from analysis.paper.fits import read_fits
from analysis.records.collected import Collected
from analysis.tables.fits import table_fits
from analysis.text.render import write_table
from analysis.text.style import style
from lomo.record.schema import read_record

GOLDEN = Path(__file__).parent / "golden"
LOST = {"sgd 2": "oom", "ghost 1": "diverged", "floor 3": "timeout", "ada 1": None}
SLOW = ("dev", "test", "seeds", "peers", "ablation")
QUICK = ("part", "predicted", "fits", "rounding")


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
            figures.append(f"## {name}\n{figure_text(draw(collected))}")
    yield "figures.txt", "\n".join(figures)
    records = {
        run_id: read_record(collected.run_folder(run_id) / "record.json")
        for run_id, status in collected.runs[["run_id", "status"]].itertuples(index=False)
        if status != "not_run"
    }
    facts = "\n".join(f"{name}: {value}" for name, value in origin(collected))
    readme = _readme(collected.plan, records, Path("results/published/made-up"))
    yield "pages.txt", f"{summary(collected)}\n\n{facts}\n\n{readme}"


def figure_text(figure: Figure) -> str:
    with style():
        text = told(figure)
    pyplot.close(figure)
    return text


def ablation(folder: Path) -> Iterator[tuple[str, str]]:
    """Predicted and measured; one run of the stack is not there."""
    for name, failed in (("all", None), ("without", "bf16-no_state")):
        results = test_table_ablation.write_predictions(folder / name)
        collected = test_table_ablation.collected_of(results, failed=failed)
        make_table(collected, "ablation")
        if failed is None:
            assert main(["predicted", "--results", str(results)]) == 0
        for path in (results / "tables").glob("*_ablation.[cm]*"):
            yield f"{name}_{path.name}", path.read_text()
        yield f"{name}_figure.txt", figure_text(figure_ablation(collected))


def predicted(folder: Path) -> Iterator[tuple[str, str]]:
    """Tables 1 and 2, today's and June 2023's: near, far, refused, on several devices."""
    one = test_table_predicted.prediction
    made = [
        *(one("memory", "lomo", peak=60.25), one("memory", "sgd", terms={"optimizer_state": 25.1})),
        one(
            "memory",
            "adamw",
            terms={"gradients": 12.55, "optimizer_state": 70.0, "activations": 46},
        ),
        one("memory", "lora", attention="sdpa", sequence_length=256),
        one("memory", "adalomo", reason="made up", ledger=None, account=None),
        *(one("throughput", "lomo", peak=13.5), one("throughput", "sgd", peak=9.4, num_devices=8)),
        one("throughput", "adamw", peak=15.0, engine="zero3", num_devices=8),
        one("throughput", "adamw", peak=15.0, engine="zero3", num_devices=4),
        one("throughput", "lora", reason="made up", ledger=None, account=None),
    ]
    june = test_table_predicted.JUNE
    then = [
        one("memory", "lomo", terms={"activations": 46.0}, **june),
        one("throughput", "lomo", peak=14.0, **june),
    ]
    test_table_predicted.tables(folder, made, then)
    for path in (folder / "tables").glob("predicted_table[12].[cm]*"):
        yield path.name, path.read_text()


def fits(folder: Path) -> Iterator[tuple[str, str]]:
    """What fits, as table and figure."""
    found = read_fits(test_table_fits.write_facts(folder))
    for path in write_table(table_fits(found), folder):
        if path.suffix in (".csv", ".md"):
            yield path.name, path.read_text()
    yield "what_fits.txt", figure_text(figure_fits(found))


OTHERS = {"ablation": ablation, "predicted": predicted, "fits": fits}


def made(name: str, folder: Path) -> dict[str, str]:
    """All texts of a study, or of what is made without one."""
    if name in OTHERS:
        return dict(OTHERS[name](folder))
    collected = peers(folder) if name == "peers" else varied.collected(name, folder)
    # Whether the published predictions are of this very code is no matter of what is shown here.
    with patch.object(paper_predictions, "is_stale", return_value=False):
        return dict(texts(collected))


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in SLOW), *QUICK])
def test_all_that_is_shown_is_as_it_was_read_and_found_right(name: str, tmp_path: Path) -> None:
    found = made(name, tmp_path)
    assert set(found) == {path.name for path in (GOLDEN / name).iterdir()}
    for file, text in found.items():
        kept = (GOLDEN / name / file).read_text(encoding="utf-8")
        lines = difflib.unified_diff(kept.splitlines(), text.splitlines(), "golden", "now", n=0)
        assert list(lines) == [], file


def _renew() -> None:
    for name in (*SLOW, *QUICK):
        with TemporaryDirectory() as folder:
            for file, text in made(name, Path(folder)).items():
                (GOLDEN / name).mkdir(parents=True, exist_ok=True)
                (GOLDEN / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(_renew())
