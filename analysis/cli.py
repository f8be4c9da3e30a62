"""The commands of `python -m lomo_analysis`: records in; tables, figures and the report out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lomo.cli import ended
from lomo.made import note, page, sources_of
from lomo.plan import read_plan
from lomo.provenance import fingerprint

from .collect import collect
from .collected import load
from .figure_ablation import make_predicted_figure
from .figures import FIGURES, SECTION_FIGURES, figures_of, make_figure
from .publish import publish
from .report import make_report
from .table_fits import make_fits
from .table_predicted import make_predicted
from .tables import SECTION_TABLES, TABLES, make_table, tables_of


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
        "report": "report/index.html, from tables and figures",
        "publish": "plan, records and timelines -> results/published/<name>",
        "all": "all of them but predictions, fits and publish, in order",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        folder = "results/fits" if name == "fits" else "results/<study>"
        command.add_argument("--results", type=Path, required=True, help=folder)
        if name == "publish":
            command.add_argument(
                "--to", type=Path, required=True, help="results/published/<name>, not there yet"
            )
        if name == "predicted":
            command.add_argument(
                "--june-2023", type=Path, help="predictions with June 2023's code, to stand beside"
            )
        known = {
            "table": [*SECTION_TABLES, *TABLES],
            "figure": [*SECTION_FIGURES, *FIGURES],
        }.get(name)
        if known:
            command.add_argument(
                "--which", nargs="+", choices=known, help="default: all of the study"
            )
    return made


def run(arguments: argparse.Namespace) -> None:
    """Does what the command line asks. Raises UserError."""
    results, command = arguments.results, arguments.command
    if command in ("collect", "all"):
        collect(results)
        _note(results, "collect")
    if command in ("table", "all"):
        collected = load(results)
        for which in getattr(arguments, "which", None) or tables_of(collected):
            make_table(collected, which)
        if not getattr(arguments, "which", None):
            _note(results, "table")
    if command == "predicted":
        make_predicted(results, arguments.june_2023)
        make_predicted_figure(results)
    if command == "publish":
        publish(results, arguments.to)
    if command == "fits":
        make_fits(results)
    if command in ("figure", "all"):
        collected = load(results)
        for which in getattr(arguments, "which", None) or figures_of(collected):
            make_figure(collected, which)
        if not getattr(arguments, "which", None):
            _note(results, "figure")
    if command in ("report", "all"):
        make_report(results)
        _note(results, "report")


def _note(results: Path, command: str) -> None:
    """Tells the next start of the pipeline what this was made from."""
    sources = sources_of(command, results, read_plan(results))
    note(page(results, command), **sources, code=fingerprint("analysis"))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0 done, 2 a user's mistake (its message on stderr)."""
    arguments = parser().parse_args(argv)
    return ended(lambda: run(arguments))
