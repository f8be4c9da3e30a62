"""The command `plan`: a study and a machine in, what each run will take out, as text."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lomo.errors import UserError
from lomo.forecast.estimates import Estimates, read_estimates
from lomo.specs import AblationSpec, MeasureSpec, PeerSpec, TrainSpec
from lomo.study.cards import card_of
from lomo.study.config import load_study
from lomo.study.machine import GIB, Machine, find_machine, given_machine
from lomo.study.native_dtype import slow_dtypes, slow_words
from lomo.study.plan import Plan, make_plan, read_plan
from lomo.system.command import Command, say_aside
from lomo.system.files import write_text
from lomo.system.processes import settle


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
    from lomo.forecast.make import make_estimates

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


_NUM_LISTED = 12  # runs that do not fit, named one by one


@dataclass(frozen=True)
class Row:
    """Runs that differ in task, seed, trial or round only, and the sum of their seconds."""

    model: str
    method: str
    setting: str
    num_runs: int
    peak_bytes: int | None
    fit: str
    seconds: float | None


def plan_line(plan: Plan, estimates: Estimates) -> str:
    """The whole plan in one line."""
    runs = list(estimates.runs.values())
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    machine = estimates.machine
    memory = f"at most {_gib(max(peaks, default=None))} GiB a device"
    if machine.device_bytes is not None:
        memory += f" of {_gib(machine.device_bytes)}"
    lacking = len(estimates.will_not_fit())
    short = len(estimates.of_fit("too few devices"))
    launched = [run.seconds for run in runs if run.fit not in ("does not fit", "too few devices")]
    fits = "all fit" if not lacking else f"{lacking} will not fit"
    fits += f", {short} ask for more devices" if short else ""
    if any(run.fit == "unknown" for run in runs):
        fits = "what fits is not known"
    return (
        f"plan of {plan.study.study} on {_machine(machine)}: {len(runs)} runs, {memory}, {fits}; "
        f"{duration(_sum(launched))} for what fits, one run after the other"
        f"{_bases(estimates)}{_suites(plan)}; {_gib(estimates.disk_bytes)} GiB of disk"
        + _slow(plan, estimates)
    )


def _bases(estimates: Estimates) -> str:
    """The base models that are trained before the runs, and how long that takes."""
    if not estimates.bases:
        return ""
    num, seconds = len(estimates.bases), _sum(list(estimates.bases.values()))
    return f", after {duration(seconds)} for {num} base model{'s' if num > 1 else ''}"


def _suites(plan: Plan) -> str:
    """That the scores of suites are not counted, where there are any."""
    return f", and {len(plan.suites)} scores of suites, whose time is not known" * bool(plan.suites)


def _slow(plan: Plan, estimates: Estimates) -> str:
    """A line for each dtype that this CPU is slow in, with the runs that take it."""
    if estimates.machine.kind != "cpu":
        return ""
    runs = Counter(run.dtype for run in (*plan.runs.values(), *plan.suites.values()))
    slow = slow_dtypes(estimates.speed.flops_per_s, runs)
    return "".join(
        f"\n{runs[dtype]} runs are slow: {slow_words(dtype, factor)}"
        for dtype, factor in slow.items()
    )


def plan_table(plan: Plan, estimates: Estimates) -> str:
    """Every run of the plan, those alike in one line, and the line of all at the end."""
    head = ["model", "method", "setting", "runs", "GiB a device", "", "time"]
    grid = [head]
    for row in rows(plan, estimates):
        cells = [row.model, row.method, row.setting, str(row.num_runs)]
        grid.append([*cells, _gib(row.peak_bytes), row.fit, duration(row.seconds)])
    widths = [max(len(line[column]) for line in grid) for column in range(len(head))]
    right = {3, 4, 6}
    lines = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in grid
    ]
    return "\n".join([*lines, "", *_notes(plan, estimates), plan_line(plan, estimates)])


def rows(plan: Plan, estimates: Estimates) -> list[Row]:
    """The runs of a plan, those alike taken together, in the plan's order."""
    groups: dict[tuple[str, str, str, int | None, str], list[float | None]] = {}
    for run_id, run in plan.runs.items():
        told = estimates.runs[run_id]
        key = (run.model, _variant(run), _setting(run), told.peak_bytes, told.fit)
        groups.setdefault(key, []).append(told.seconds)
    return [
        Row(model, method, setting, len(seconds), peak, fit, _sum(seconds))
        for (model, method, setting, peak, fit), seconds in groups.items()
    ]


def duration(seconds: float | None) -> str:
    """Seconds in words: 40 s, 12 min, 3.4 h, 12 days."""
    if seconds is None:
        return "?"
    for size, name, places in ((86_400, "days", 1), (3600, "h", 1), (60, "min", 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{places}f} {name}"
    return f"{seconds:.0f} s"


def _variant(run: TrainSpec | MeasureSpec) -> str:
    if isinstance(run, PeerSpec):
        return run.variant
    if isinstance(run, AblationSpec):
        return run.cell
    return f"{run.method}-r{run.hyper['rank']}" if "rank" in run.hyper else run.method


def _setting(run: TrainSpec | MeasureSpec) -> str:
    length = run.max_length if isinstance(run, TrainSpec) else run.sequence_length
    parts = [run.kind, f"{run.batch_size} x {length}"]
    parts += [run.dtype, *(["eager"] if run.attention == "eager" else [])]
    parts += ["checkpointed"] if run.activation_checkpointing else []
    parts += ["fused head"] if run.head_loss == "fused" else []
    parts += ["compiled"] if isinstance(run, MeasureSpec) and run.compile == "layers" else []
    if run.engine != "single":
        parts.append(f"{run.engine} x {run.num_devices}")
    return " ".join(parts)


def _notes(plan: Plan, estimates: Estimates) -> list[str]:
    notes = []
    lacking = estimates.will_not_fit()
    if lacking:
        more = len(lacking) - _NUM_LISTED
        notes.append(
            "will not fit, so recorded as predicted_oom and not launched, unless the study says "
            f"launch_anyway: true: {', '.join(lacking[:_NUM_LISTED])}"
            + (f" and {more} more" if more > 0 else "")
        )
    if short := len(estimates.of_fit("too few devices")):
        notes.append(f"too few devices: recorded as unsupported and not launched ({short} runs)")
    reasons = Counter(run.reason for run in estimates.runs.values() if run.reason)
    notes += [f"{reason} ({num} runs)" for reason, num in reasons.items()]
    if estimates.machine.origin == "unknown":
        notes.append("no GPU is here: say which one it will be, such as --gpu 80 --gpus 8")
    return notes


def _machine(machine: Machine) -> str:
    if machine.kind == "cpu":
        return "a CPU"
    return machine.name if machine.num_devices == 1 else f"{machine.num_devices} x {machine.name}"


def _gib(num_bytes: int | None) -> str:
    return "?" if num_bytes is None else f"{num_bytes / GIB:.2f}"


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
