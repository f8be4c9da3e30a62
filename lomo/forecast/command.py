"""The command `plan`: a study and a machine in, what each run will take out."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lomo.errors import UserError
from lomo.study.cards import card_of
from lomo.study.machine import Machine, find_machine, given_machine
from lomo.system.command import Command, say_aside
from lomo.system.process import settle

if TYPE_CHECKING:
    from lomo.study.plan import Plan


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `plan`."""
    parser.add_argument(
        "study", type=Path, help="study file, such as config/tiny.yaml, or a results/.../plan.json"
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="keys of the study with other values, as snakemake takes them: protocol=sound",
    )
    parser.add_argument(
        "--gpu", metavar="CARD", help="plan for a card: its GiB, or a name such as 'RTX 4090'"
    )
    parser.add_argument("--gpus", type=int, help="and so many of them (default: 1)")
    parser.add_argument("--gpu-name", help="of a card given in GiB, such as 'H200': for the time")
    parser.add_argument("--out", type=Path, help="also write every run's estimate as JSON")
    parser.add_argument("--estimates", type=Path, help="show those that stand in this file")
    parser.add_argument("--processes", type=int, default=1, help="predictions at a time")
    parser.add_argument("--line", action="store_true", help="print the line of all only")


def answer(options: argparse.Namespace, say: Callable[[str], None]) -> str:
    """The plan with its estimates, as text. Raises UserError for what cannot be asked."""
    plan, machine = check(options)
    from lomo.forecast.estimates import read_estimates
    from lomo.forecast.make import make_estimates
    from lomo.forecast.text import plan_line, plan_table
    from lomo.system.files import write_text

    if options.estimates is not None:
        estimates = read_estimates(options.estimates)
        if not set(plan.runs) <= set(estimates.runs):
            raise UserError(
                f"holds no estimates of {plan.study.study}'s runs",
                where=f"--estimates {options.estimates}",
                fix="leave --estimates out: they are made again",
            )
    else:
        estimates = make_estimates(
            plan,
            machine,
            Path("results", plan.study.study, "predictions"),
            say,
            num_processes=options.processes,
        )
    if options.out is not None:
        write_text(options.out, estimates.model_dump_json(indent=1) + "\n")
    return (plan_line if options.line else plan_table)(plan, estimates)


@dataclass
class Planning:
    """The command at work in a process of its own, for a study that is being started."""

    process: subprocess.Popen[bytes]
    log: Path
    estimates: Path
    needs_the_hub: bool

    def finish(self) -> None:
        """Waits for it. Where it failed the study goes on, without estimates.

        Raises the UserError of a model that no run could use; one that the hub has still to tell
        of may only be unknown to the plan.
        """
        code = self.process.wait()
        if code == 0:
            return
        self.estimates.unlink(missing_ok=True)
        said = self.log.read_text(encoding="utf-8", errors="replace").partition("error: ")[2]
        if code == 2 and said and not self.needs_the_hub:
            where, _, what = said.strip().partition(": ")
            raise UserError(what, where=where)
        again = "the next start tries again"
        print(f"no plan could be made, see {self.log}; {again}", file=sys.stderr, flush=True)


def start(plan: Plan, estimates: Path, num_processes: int) -> Planning:
    """Begins to estimate a plan's runs into the file; the line of all is printed at the end."""
    from lomo.system.files import write_text

    results = estimates.parent
    written, log = results / ".start" / "plan.json", results / "logs" / "estimate.log"
    write_text(written, plan.model_dump_json())
    log.parent.mkdir(parents=True, exist_ok=True)
    options = ["--out", str(estimates), "--processes", str(num_processes), "--line"]
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "lomo", "plan", str(written), *options], stderr=errors
        )
    needs_the_hub = any(entry.architecture is None for entry in plan.models.values())
    return Planning(process, log, estimates, needs_the_hub)


def check(options: argparse.Namespace) -> tuple[Plan, Machine]:
    """The plan and the machine that are asked for. Raises UserError; imports no torch."""
    from lomo.study.config import load_study
    from lomo.study.plan import make_plan, read_plan

    if options.study.name == "plan.json":
        if options.config:
            raise UserError(
                "a plan is made, and its study's keys are in it",
                where="--config",
                fix="give the study file",
            )
        plan = read_plan(options.study.parent)
    else:
        plan = make_plan(load_study(options.study, options.config), source=str(options.study))
    if options.gpu is not None and options.estimates is not None:
        raise UserError("those in --estimates are for a machine already", where="--gpu")
    if options.gpu is None:
        for name, given in (("--gpus", options.gpus), ("--gpu-name", options.gpu_name)):
            if given is not None:
                raise UserError(
                    "says which card, but not of what size", where=name, fix="add --gpu"
                )
        return plan, find_machine(plan.study.device)
    card = card_of(options.gpu, where="--gpu")
    num_gpus = 1 if options.gpus is None else options.gpus
    return plan, given_machine(card.gib, num_gpus, options.gpu_name or card.name)


def run(options: argparse.Namespace) -> None:
    """The command `plan`."""
    check(options)  # before the imports
    settle()
    print(answer(options, say_aside))


COMMANDS = {"plan": Command(add_options, run)}
