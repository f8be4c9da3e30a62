"""The commands of `python -m lomo_analysis`: records in; tables, figures and the report out."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.record.made import Sources, note, page
from lomo.record.provenance import fingerprint
from lomo.study.plan import Plan, read_plan
from lomo.system.command import ended

if TYPE_CHECKING:
    from .records.collected import Collected


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m lomo_analysis", description=__doc__)
    commands = made.add_subparsers(dest="command", required=True)
    helps = {
        "collect": "records -> tables/records.csv and .parquet",
        "table": "tables/table*.{csv,md,tex,html} and verdicts.*",
        "predicted": "tables/predicted_*, and the figure of an ablation, from predictions",
        "fits": "tables/what_fits.* and figures/what_fits.*, from what_fits.json",
        "figure": "figures/*.{svg,pdf,png}",
        "report": "report/index.html and summary.{md,html,tex}; results/index.html lists studies",
        "dashboard": "dashboard/*.json; with a key of W&B, its workspace and report",
        "stability": "stability.*: whether other seeds and another CPU say the same of accuracy",
        "publish": "plan, records and timelines -> results/published/<name>",
        "export": "accuracies in the formats of others, with their records -> a new folder",
        "all": "all but predictions, fits, dashboard, stability, publish and export, in order",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        folder = "results/fits" if name == "fits" else "results/<study>"
        many = {"nargs": "+"} if name == "stability" else {}
        command.add_argument("--results", type=Path, required=True, help=folder, **many)
        if name == "stability":
            command.add_argument("--out", type=Path, required=True, help="folder for the table")
        if name == "publish":
            command.add_argument(
                "--to", type=Path, required=True, help="results/published/<name>, not there yet"
            )
        if name == "export":
            command.add_argument("--out", type=Path, required=True, help="folder, not there yet")
        if name == "predicted":
            command.add_argument(
                "--june-2023", type=Path, help="predictions with June 2023's code, to stand beside"
            )
            command.add_argument(
                "--publish", type=Path, help="folder below results/published to bring up to date"
            )
        if name in ("table", "figure"):
            command.add_argument("--which", nargs="+", help="by name; default: all of the study")
    return made


# Each command imports what it needs: figures take longer to import than many records to read.
def run(arguments: argparse.Namespace) -> None:
    """Does what the command line asks. Raises UserError."""
    results, command = arguments.results, arguments.command
    if command == "stability":
        _stability(results, arguments.out)
        return
    if command in ("collect", "all"):
        from .records.collect import collect

        collect(results)
        _note(results, "collect", read_plan(results))
    if command in ("table", "all"):
        _tables(results, getattr(arguments, "which", None))
    if command == "predicted":
        from .figures.ablation import make_predicted_figure
        from .tables.predicted import make_predicted

        make_predicted(results, arguments.june_2023)
        make_predicted_figure(results)
        if arguments.publish:
            from .paper.predictions import publish_predictions

            publish_predictions(results / "predictions", arguments.publish)
    if command == "publish":
        from .page.publish import publish

        publish(results, arguments.to)
    if command == "dashboard":
        from .dashboard.make import make_dashboard

        make_dashboard(results)
    if command == "export":
        _export(results, arguments.out)
    if command == "fits":
        from .figures.fits import make_fits_figure
        from .tables.fits import make_fits_table

        make_fits_table(results)
        make_fits_figure(results)
    if command in ("figure", "all"):
        _figures(results, getattr(arguments, "which", None))
    if command in ("report", "all"):
        from .page.landing import make_landing
        from .page.one_page import make_summary
        from .page.report import make_report

        make_report(results)
        make_summary(results)
        if results.resolve().parent.name == "results":
            make_landing(results.resolve().parent)
        _note(results, "report", read_plan(results))


def _stability(folders: Sequence[Path], out: Path) -> None:
    from .records.collected import load
    from .text.render import write_table
    from .verdicts.stability import table_stability

    write_table(table_stability([load(folder) for folder in folders]), out)


def _export(results: Path, out: Path) -> None:
    from .export.write import export

    left = export(results, out)
    for (of, reason), number in Counter((each.format, each.reason) for each in left).items():
        print(f"left out of {of}: {number} ({reason})", file=sys.stderr)
    if left:
        print(f"which: {out / 'left_out.csv'}", file=sys.stderr)


def _tables(results: Path, which: Sequence[str] | None) -> None:
    from .page.tables import SECTION_TABLES, TABLES, make_table, tables_of

    _check_names(which, [*SECTION_TABLES, *TABLES])
    _each(results, "table", which, tables_of, make_table)


def _figures(results: Path, which: Sequence[str] | None) -> None:
    from .figures.all import ALL_FIGURES, figures_of, make_figure

    _check_names(which, [*ALL_FIGURES])
    _each(results, "figure", which, figures_of, make_figure)


def _each(
    results: Path,
    command: str,
    which: Sequence[str] | None,
    all_of: Callable[[Collected], Iterable[str]],
    make: Callable[[Collected, str], object],
) -> None:
    """Makes those that are named; all of the study where none is, and notes what they are of."""
    from .records.collected import load

    collected = load(results)
    for name in which or all_of(collected):
        make(collected, name)
    if not which:
        _note(results, command, collected.plan)


def _check_names(which: Sequence[str] | None, known: Sequence[str]) -> None:
    for name in which or ():
        if name not in known:
            raise UserError(f"there is no {name!r}", where="--which", allowed=", ".join(known))


def _note(results: Path, command: str, plan: Plan) -> None:
    """Tells the next start of the pipeline what this was made from."""
    note(page(results, command), **Sources(results, plan).of(command), code=fingerprint("analysis"))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 a user's mistake (its message on stderr)."""
    arguments = parser().parse_args(argv)
    return ended(lambda: run(arguments))
