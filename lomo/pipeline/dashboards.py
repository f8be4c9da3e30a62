"""Commands of W&B: sends what a study has written offline, and makes its dashboard."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from lomo.errors import UserError
from lomo.system.command import Command, say

NO_KEY = "no key of W&B is found"
GET_KEY = "`wandb login`, or WANDB_API_KEY=..., and the same command again"


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", type=Path, help="results/<study>")


def _send(options: argparse.Namespace) -> None:
    from lomo.record.remote.sending import account, send
    from lomo.study.plan import read_plan

    plan = read_plan(options.results)
    to = account()
    if to is None:
        raise UserError(f"{NO_KEY}: nothing is sent", where="wandb-sync", fix=GET_KEY)
    sent = send(options.results, plan, to)
    say(f"{to.place}: {sent.now} sent, {sent.before} sent before, {len(sent.failed)} not")
    if sent.failed:
        reasons = [f"{run}: {reason}" for run, reason in list(sent.failed.items())[:5]]
        more = [f"... and {len(sent.failed) - 5} more"] if len(sent.failed) > 5 else []
        raise UserError(
            "\n    ".join([f"{len(sent.failed)} runs did not arrive whole", *reasons, *more]),
            where=to.place,
            fix="the same command again: it sends these alone",
        )


def _dashboard(options: argparse.Namespace) -> int:
    # Through its command line: what makes tables is above, and is never imported from here.
    command = [sys.executable, "-m", "lomo_analysis", "dashboard", "--results"]
    return subprocess.run([*command, str(options.results)]).returncode


COMMANDS = {
    "wandb-sync": Command(_options, _send),
    "dashboard": Command(_options, _dashboard),
}
