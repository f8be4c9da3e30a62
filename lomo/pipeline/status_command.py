"""The command `status`: how a study stands, as text and as JSON."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from lomo.errors import UserError
from lomo.forecast.text import duration
from lomo.pipeline.status import Status, Study
from lomo.system.command import Command

_NUM_FAILED = 10


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `status`."""
    parser.add_argument(
        "study",
        nargs="?",
        default="results/tiny",
        help="results/<study>, the study's name, or its file (default: results/tiny)",
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def answer(options: argparse.Namespace) -> str:
    """How the study stands. Raises UserError where no pipeline has begun it."""
    from lomo.study.plan import read_plan

    results = results_of(options.study)
    status = Study(results, read_plan(results)).look()
    return as_json(status) if options.json else as_text(status)


def results_of(study: str) -> Path:
    """The results folder that a name, a study file or a folder means."""
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        from lomo.study.config import Study as StudyConfig
        from lomo.system.strict import parse, read_yaml

        return Path("results", parse(StudyConfig, read_yaml(path), where=study).study)
    if path.is_dir():
        return path
    if Path("results", study).is_dir():
        return Path("results", study)
    known = sorted(path.parent.as_posix() for path in Path("results").glob("*/plan.json"))
    raise UserError(
        "no such study has begun here",
        where=study,
        allowed=", ".join(known) or "none: there is no results/<study> in this folder",
        fix="start it: snakemake --cores all --configfile STUDY.yaml",
    )


def as_json(status: Status) -> str:
    """All of it, one object."""
    return json.dumps(asdict(status) | {"num_ended": status.num_ended}, indent=1)


def as_text(status: Status) -> str:
    """A line for all, and one for each run that runs or failed."""
    parts = ", ".join(f"{count} {name}" for name, count in sorted(status.ended.items()))
    lines = [
        f"{status.study}: {status.title}",
        f"  runs     {status.num_ended} of {status.num_runs} ended" + (f": {parts}" * bool(parts)),
    ]
    if status.other_plan:
        lines.append(f"           {status.other_plan} of another plan, to be made again")
    if status.num_bases:
        lines.append(f"  bases    {status.num_bases_made} of {status.num_bases} base models made")
    for run in status.running:
        lines.append(f"  running  {run.run_id}, for {duration(run.seconds)}")
    for failed in status.failed[:_NUM_FAILED]:
        lines += [f"  failed   {failed.job}: {failed.why}", f"           all of it: {failed.log}"]
    if len(status.failed) > _NUM_FAILED:
        lines.append(f"           and {len(status.failed) - _NUM_FAILED} more")
    lines.append(f"  left     {time_left(status)}")
    lines.append(f"  page     {status.page or 'none yet'}")
    return "\n".join(lines)


def time_left(status: Status) -> str:
    """The time left in words, or why nobody knows."""
    if status.num_ended == status.num_runs:
        return "no run" + (", tables and the page" if status.working and not status.page else "")
    told = f"not known: {status.why_unknown}"
    if status.seconds_left is not None:
        told = f"about {duration(status.seconds_left)}"
    return told if status.working else f"{told}; no pipeline works on it"


def run(options: argparse.Namespace) -> None:
    """The command `status`."""
    print(answer(options))


COMMANDS = {"status": Command(add_options, run)}
