"""How a study stands: which runs are done, which run, which failed and why, and the time left; and
the command `status`, which tells it.

Read from its folder alone, while a pipeline works on it or after. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.forecast.command import duration
from lomo.record import made
from lomo.specs import RunSpec, SuiteSpec
from lomo.study.plan import Plan
from lomo.system.command import Command
from lomo.system.files import is_held

# Jobs that are no runs: a part of the log's name, and what stands when they are done.
OTHER_JOBS = {
    "generate": "data/text.txt",
    "collect": "tables/records.parquet",
    "tables": "tables/verdicts.csv",
    "figures": "figures/overview.svg",
    "report": "report/index.html",
}
# Below this share of the work the pace of the pipeline itself tells nothing yet.
LEAST_SHARE = 0.03


@dataclass(frozen=True)
class Running:
    """A run that a process holds now. seconds: since it began."""

    run_id: str
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A job that ended with an error. why: the last line of its log."""

    job: str
    log: str
    why: str


@dataclass(frozen=True)
class Status:
    """A study at one moment. Scored suites are runs as any other.

    ended: runs that have a record of the present plan, counted by its status. other_plan: runs
    whose record is of another plan, which are to be made again. num_bases: base models that are
    trained for the runs, num_bases_made of which stand. seconds_left: None where nothing
    tells; why, in `why_unknown`. num_untimed: suites that it does not count: no model was scored
    on them yet, and the plan does not tell their time. working: whether a pipeline holds the
    study. page: the report, None where there is none yet.
    """

    study: str
    title: str
    num_runs: int
    ended: Mapping[str, int]
    other_plan: int
    num_bases: int
    num_bases_made: int
    running: Sequence[Running]
    failed: Sequence[Failed]
    seconds_left: float | None
    why_unknown: str | None
    num_untimed: int
    working: bool
    page: str | None

    @property
    def num_ended(self) -> int:
        """How many runs have their record."""
        return sum(self.ended.values())


@dataclass(frozen=True)
class _Ended:
    status: str
    wall_s: float
    at: float
    of_plan: bool


@dataclass
class Study:
    """A study's folder, looked at again and again: a record is read once for each time written."""

    results: Path
    plan: Plan
    _seen: dict[str, _Ended] = field(default_factory=dict)

    @property
    def runs(self) -> dict[str, RunSpec | SuiteSpec]:
        """All runs of the plan by their ids, suites last."""
        return {**self.plan.runs, **self.plan.suites}

    def look(self) -> Status:
        """How it stands now."""
        ended = dict(self._ended())
        left = [run_id for run_id in self.runs if run_id not in ended]
        running = list(self._running(left))
        working = is_held(self.results / ".lock")
        timed = self._timed(ended, left)
        seconds, why = self._seconds_left(ended, timed, working=working)
        held = {run.run_id for run in running}
        bases = self.plan.bases()
        page = self.results / "report" / "index.html"
        return Status(
            study=self.plan.study.study,
            title=self.plan.study.title,
            num_runs=len(self.runs),
            ended=dict(Counter(run.status for run in ended.values())),
            other_plan=sum(not run.of_plan for run in self._seen.values()),
            num_bases=len(bases),
            num_bases_made=sum(map(self._is_made, bases)),
            running=running,
            failed=list(self._failed([run_id for run_id in left if run_id not in held])),
            seconds_left=seconds,
            why_unknown=why,
            num_untimed=len(left) - len(timed),
            working=working,
            page=page.as_posix() if page.is_file() else None,
        )

    def _ended(self) -> Iterator[tuple[str, _Ended]]:
        for run_id, spec in self.runs.items():
            path = self.results / "runs" / run_id / "record.json"
            try:
                at = path.stat().st_mtime
            except OSError:
                self._seen.pop(run_id, None)
                continue
            seen = self._seen.get(run_id)
            if seen is None or seen.at != at:
                record = made.read(path)
                if not record:  # cut, or written just now
                    continue
                wall_s = (record.get("clock") or {}).get("wall_s") or 0.0
                of_plan = record.get("spec") == spec.model_dump(mode="json")
                seen = _Ended(str(record.get("status")), wall_s, at, of_plan)
                self._seen[run_id] = seen
            if seen.of_plan:
                yield run_id, seen

    def _running(self, left: Sequence[str]) -> Iterator[Running]:
        for run_id in left:
            lock = self.results / "runs" / run_id / ".lock"
            if is_held(lock):
                yield Running(run_id, max(time.time() - lock.stat().st_mtime, 0.0))

    def _failed(self, left: Sequence[str]) -> Iterator[Failed]:
        logs = self.results / "logs"
        for run_id in left:
            if why := _last_line(logs / f"{run_id}.log"):
                yield Failed(run_id, (logs / f"{run_id}.log").as_posix(), why)
        others = {
            f"pretrain-{name}-s{seed}": f"models/{name}/{Path(base).name}/model.safetensors"
            for base, (name, seed) in self.plan.bases().items()
        }
        for job, product in (OTHER_JOBS | others).items():
            why = _last_line(logs / f"{job}.log")
            if why and not (self.results / product).exists():
                yield Failed(job, (logs / f"{job}.log").as_posix(), why)

    def _is_made(self, base: str) -> bool:
        """Whether a base model stands; its folder is told from where the pipeline works."""
        model, seed = Path(base).parts[-2:]
        return (self.results / "models" / model / seed / "model.safetensors").is_file()

    def _timed(self, ended: Mapping[str, _Ended], left: Sequence[str]) -> list[str]:
        """Of the runs left those whose time something tells: not suites that nothing was scored on.

        A suite takes on one model what it took on another of the study.
        """
        scored = {self.plan.suites[run].task for run in ended if run in self.plan.suites}
        return [
            run
            for run in left
            if run not in self.plan.suites or self.plan.suites[run].task in scored
        ]

    def _suite_seconds(self, ended: Mapping[str, _Ended]) -> dict[str, float | None]:
        """What each suite run took, or what its suite took on the mean of other models."""
        took: dict[str, list[float]] = {}
        for run_id, spec in self.plan.suites.items():
            if run_id in ended:
                took.setdefault(spec.task, []).append(ended[run_id].wall_s)
        means = {task: sum(seconds) / len(seconds) for task, seconds in took.items()}
        return {run_id: means.get(spec.task) for run_id, spec in self.plan.suites.items()}

    def _seconds_left(
        self, ended: Mapping[str, _Ended], left: Sequence[str], *, working: bool
    ) -> tuple[float | None, str | None]:
        """By the estimates, at the pace of this pipeline, or of all runs that have ended."""
        estimates = made.read(self.results / "estimates.json")
        told = estimates.get("runs", {})
        seconds = {run_id: _seconds(told.get(run_id)) for run_id in self.plan.runs}
        seconds |= self._suite_seconds(ended)
        if not left:
            return 0.0, None
        expected = _sum(seconds, left)
        if expected is None:
            return None, "the plan has no estimate of it" if told else "no plan has been made yet"
        told_bases = estimates.get("bases", {})
        expected += sum(told_bases.get(b) or 0.0 for b in self.plan.bases() if not self._is_made(b))
        known = [run_id for run_id in ended if seconds[run_id]]
        if working:
            began = (self.results / ".lock").stat().st_mtime
            done_here = _sum(seconds, [run_id for run_id in known if ended[run_id].at >= began])
            if done_here and done_here > LEAST_SHARE * (expected + done_here):
                return expected * (time.time() - began) / done_here, None
        estimated = _sum(seconds, known)
        took = sum(ended[run_id].wall_s for run_id in known)
        return expected * (took / estimated if estimated else 1.0), None


def _seconds(estimate: Mapping[str, Any] | None) -> float | None:
    """Of an estimate, what the run will take; what will not be launched takes nothing."""
    estimate = estimate or {}
    if estimate.get("fit") in ("does not fit", "too few devices"):
        return 0.0
    return estimate.get("seconds")


def _sum(seconds: Mapping[str, float | None], runs: Sequence[str]) -> float | None:
    """None where one of them is not known."""
    found = [value for value in (seconds[run] for run in runs) if value is not None]
    return sum(found) if len(found) == len(runs) else None


def _last_line(log: Path) -> str | None:
    """The last line of a log that says anything; None if nothing."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return None
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


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
    if status.num_untimed and not status.seconds_left:
        told = f"not known: {status.num_untimed} scores of suites, of which none is there yet"
    elif status.num_untimed:
        told += f", without {status.num_untimed} scores of suites, of which none is there yet"
    return told if status.working else f"{told}; no pipeline works on it"


def run(options: argparse.Namespace) -> None:
    """The command `status`."""
    print(answer(options))


COMMANDS = {"status": Command(add_options, run)}
