"""The command line: what a rule runs, a person can paste; and which lomo it is.

Exit codes: 0 the command did its work (a run's record may still say oom or diverged), 2 what the
user can mend (a mistake, a full disk), 3 the answer is no (nothing that was asked fits the card),
130 Ctrl-C and 143 SIGTERM (a training, started again, goes on from what it has saved), 1 a bug.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lomo.system.command import ended

ROOT = Path(__file__).resolve().parents[1]
# Command -> the module that has it, and what it does. A module is imported for its command alone.
COMMANDS = {
    "advise": ("lomo.advise.command", "what fits a card, how fast, and what it loses"),
    "predict": ("lomo.memory.asked.predict", "the memory of a step, without a run"),
    "fits": ("lomo.memory.asked.fits", "the largest batches that fit a card, without a run"),
    "plan": ("lomo.forecast.command", "memory, time and disk of a study, without a run"),
    "status": ("lomo.pipeline.status", "how a study stands: runs, failures, time left"),
    "doctor": ("lomo.pipeline.doctor", "what this machine has and lacks, each with a fix"),
    "runs": ("lomo.pipeline.rules", "list all runs of a study, checked"),
    "train": ("lomo.pipeline.rules", "train on one task and score it"),
    "instruct": ("lomo.pipeline.rules", "train on instructions and score held-out ones"),
    "measure": ("lomo.pipeline.rules", "measure memory and throughput of a training step"),
    "suite": ("lomo.pipeline.suites", "score a model folder on a benchmark suite"),
    "suite-data": ("lomo.pipeline.suites", "make the generated miniature of a suite"),
    "data": ("lomo.pipeline.rules", "make the generated miniature of SuperGLUE"),
    "pretrain": ("lomo.pipeline.rules", "make a base model from generated text"),
    "architecture": ("lomo.pipeline.rules", "write config.json for random weights"),
    "fetch": ("lomo.pipeline.rules", "download what is pinned (network)"),
    "import": ("lomo.pipeline.rules", "make a model folder of a GGUF file"),
    "predictions": ("lomo.pipeline.rules", "predict all that a study measures"),
    "wandb": ("lomo.pipeline.rules", "write a study's records as offline W&B runs"),
    "wandb-sync": ("lomo.pipeline.dashboards", "send a study's offline runs to W&B, each once"),
    "dashboard": ("lomo.pipeline.dashboards", "make a study's W&B workspace and report"),
    "reference": ("lomo.study.reference", "write config/README.md's reference anew"),
    "warm": ("lomo.pipeline.warm", "import once, then fork each run that asks"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; gives the exit code. Without one, prints what there is."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser(arguments)
    options = parser.parse_args(arguments)
    if options.run is None:
        return ended(parser.print_help)
    return ended(lambda: options.run(options))


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """The parser; of the commands, the one that is asked for has its options."""
    parser = argparse.ArgumentParser(
        prog="python -m lomo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=Version, help="package version and git commit")
    parser.set_defaults(run=None, main=main)
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        own = commands.add_parser(name, help=text)
        if name in arguments[:1]:
            command = importlib.import_module(module).COMMANDS[name]
            command.add_options(own)
            own.set_defaults(run=command.run)
    return parser


class Version(argparse.Action):
    """Prints it and leaves; git is asked only then."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_line())
        parser.exit()


def version_line() -> str:
    """Name and version, and the commit where the package lies in a checkout of its own."""
    top = _git("rev-parse", "--show-toplevel")
    commit = _git("rev-parse", "--short", "HEAD") if top and Path(top).resolve() == ROOT else None
    changed = ", with changes" if commit and _git("status", "--porcelain") else ""
    return f"lomo-repro {package_version()}{f' (commit {commit}{changed})' if commit else ''}"


def package_version() -> str:
    """Of the checkout, which may be newer than what was installed from it; else of that."""
    project = ROOT / "pyproject.toml"
    try:
        found = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        if found["name"] == "lomo-repro":
            return str(found["version"])
    except (OSError, ValueError, KeyError):
        pass
    try:
        return version("lomo-repro")
    except PackageNotFoundError:
        return "of no known version"


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
