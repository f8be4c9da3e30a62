"""Studies on a real Slurm of this machine: do they find what they find without it?

    make test-cluster                              # ARGS="--tiny": the default study too, twice
    python tests/cluster/try_cluster.py [--keep FOLDER] [--tiny]

Jobs and a node are killed on the way. Prints what was done and seen. Exit code 0 where all is well,
1 where it is not, 2 where no Slurm can be started here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import same_results  # noqa: E402

from lomo.forecast.estimates import read_estimates, resources_of  # noqa: E402
from lomo.record.schema import Record, read_record  # noqa: E402
from tests.cluster import cluster as slurm  # noqa: E402
from tests.workflow.mini_model import MODELS  # noqa: E402

HERE = ROOT / "tests" / "cluster"
PROFILE = ["--workflow-profile", str(ROOT / "profiles" / "slurm"), "--latency-wait", "10"]
# Without accounting, and asked often: these jobs are short.
PROFILE += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "3"]
PATIENCE_S = 3600
# What a training that went on has otherwise: where, and its first steps after that are not timed.
RESUMED = ("resumed_at_steps", "num_warmup_steps", "num_timed_steps", "num_tokens_timed")
RESUMED += ("padding_fraction",)
Outcome = tuple[str, str, bool]


def ended(pipeline: subprocess.Popen[bytes]) -> int:
    """The exit code of a pipeline; one that outlasts the patience is interrupted, and its jobs."""
    for patience_s, then in ((PATIENCE_S, signal.SIGINT), (60, signal.SIGKILL)):
        try:
            return pipeline.wait(patience_s)
        except subprocess.TimeoutExpired:
            pipeline.send_signal(then)
    return pipeline.wait()


class Study:
    """A study in a folder of its own, done here and on the cluster."""

    def __init__(self, folder: Path, name: str, file: Path | None = None) -> None:
        self.name, self.folder = name, folder
        self.file = file or HERE / f"{name}.yaml"
        for place in ("local", "cluster"):
            (folder / place / "config").mkdir(parents=True, exist_ok=True)
            if file is None:
                (folder / place / "config" / "models.yaml").write_text(MODELS)

    def start(self, place: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Snakemake at work in `local` or `cluster`; what it says is in snakemake.log there."""
        how = PROFILE if place == "cluster" else ["--cores", "all"]
        command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), *how]
        with (self.folder / place / "snakemake.log").open("ab") as log:
            return subprocess.Popen(
                [*command, "--configfile", str(self.file), *arguments],
                cwd=self.folder / place,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
            )

    def do(self, place: str, *arguments: str) -> int:
        """The exit code of the whole study there."""
        return ended(self.start(place, *arguments))

    def jobs(self, *, ended: bool = False) -> list[dict[str, str]]:
        """Its jobs on the cluster, by their folder: a rule's name is that of other studies, too."""
        folder = str((self.folder / "cluster").resolve())
        return [job for job in slurm.jobs(ended=ended) if job["folder"] == folder]

    def asked(self, rule: str) -> dict[str, str]:
        """What Slurm tells of its job of a rule; nothing where there was none."""
        found = (job for job in self.jobs(ended=True) if f"rule_{rule}_" in job["rule"])
        return next((slurm.details(job["id"]) for job in found), {})

    def results(self, place: str) -> Path:
        return self.folder / place / "results" / self.name

    def records(self, place: str) -> Iterator[Record]:
        for path in sorted(self.results(place).rglob("record.json")):
            yield read_record(path)

    def compare(self, less: Sequence[str] = ()) -> tuple[str, bool]:
        """Does it here, too. What differs, less what names one of `less`; whether nothing does."""
        if code := self.do("local"):
            return f"exit code {code}: see {self.folder}/local/snakemake.log", False
        files = list(same_results.compared(self.results("local"), self.results("cluster")))
        different = [
            f"{name} {line}"
            for name, found in files
            for line in found or ()
            if not any(key in line for key in less)
        ]
        tables = sum(name.startswith("tables/") for name, _ in files)
        seen = f"{len(files)} files, {tables} of them tables: {len(different)} differences"
        return f"{seen} {different[:3] if different else ''}".strip(), bool(files) and not different


def small(folder: Path) -> Iterator[Outcome]:
    """A bit of each kind, its requests, and its tables."""
    study = Study(folder / "small", "small")
    code = study.do("cluster")
    yield "a small study on the cluster", f"exit code {code}", code == 0
    told = study.jobs(ended=True)
    yield requests(study, told)
    names = {job["name"].rpartition("_")[0] for job in told}
    yield "what its jobs are called", ", ".join(names), names == {study.name}
    arrays = [job["id"] for job in told if "_" in job["id"] and "rule_pretrain" in job["rule"]]
    yield "its base models as an array", f"jobs {', '.join(arrays)}", len(arrays) == 3
    left = sorted(path.name for path in (study.folder / "cluster").iterdir())
    own = {".snakemake", "config", "results", "snakemake.log"}
    yield "what it leaves in the working folder", ", ".join(left), set(left) <= own
    yield "the same here", *study.compare()


def requests(study: Study, told: list[dict[str, str]]) -> Outcome:
    """Whether each run has asked Slurm for what the plan told of it."""
    path = study.results("cluster") / "estimates.json"
    good, wrong = 0, []
    for run_id in read_estimates(path).runs:
        wanted = resources_of(path, run_id, None)
        job = next((job for job in told if run_id.replace("/", "_") in job["rule"]), None)
        asked = None if job is None else slurm.details(job["id"])
        if asked is None:
            wrong.append(f"{run_id}: no job")
        elif asked.get("MinMemoryNode") != slurm_memory(wanted["mem_mb"]):
            wrong.append(f"{run_id}: {asked.get('MinMemoryNode')}, the plan {wanted['mem_mb']}M")
        elif (
            asked.get("TimeLimit") != f"{wanted['runtime'] // 60:02}:{wanted['runtime'] % 60:02}:00"
        ):
            wrong.append(f"{run_id}: {asked.get('TimeLimit')}, the plan {wanted['runtime']} min")
        else:
            good += 1
    seen = f"memory and minutes of {good} jobs are the plan's {wrong[:2] if wrong else ''}"
    return "what runs ask for", seen.strip(), good > 0 and not wrong


def slurm_memory(megabytes: int) -> str:
    """As Slurm writes it: whole gigabytes as such."""
    return f"{megabytes // 1024}G" if megabytes % 1024 == 0 else f"{megabytes}M"


def killed(folder: Path, cluster: slurm.Cluster) -> Iterator[Outcome]:
    """A job that is cancelled, one that is asked to end, one whose node is lost."""
    study = Study(folder / "killed", "killed")
    pipeline = study.start("cluster")
    for method, what in (("sgd", "cancel"), ("lomo", "ask"), ("adamw", "node")):
        job = caught(study, method, pipeline)
        if job is None:
            yield f"a run of {method}, to be killed", "it was not caught in the middle", False
            continue
        if what == "cancel":
            subprocess.run(["scancel", job["id"]], check=False)
            yield "scancel of a job in the middle", f"job {job['id']}", True
        elif what == "ask":
            # What --signal does before the time is over: to the steps, not to the batch script.
            subprocess.run(["scancel", "--signal=TERM", job["id"]], check=False)
            yield "SIGTERM to a job, as --signal sends it", f"job {job['id']}", True
        else:
            number = cluster.lose_node(job["node"])
            lost = slurm.wait_for(lambda: slurm.state_of(job["node"]) == "down", 120)  # noqa: B023
            cluster.start_node(job["node"])
            seen = f"{number} processes of {job['node']} killed, Slurm calls it down: {lost}"
            yield "SIGKILL to a node's daemon and all on it", seen, lost
            again = slurm.details(job["id"]).get("Restarts", "?")
            yield "its job is submitted again by Slurm", f"{again} restarts", again == "1"
    code = ended(pipeline)
    yield "the study goes on to its end", f"exit code {code}", code == 0
    for record in study.records("cluster"):
        steps = record.resumed_at_steps
        yield f"{record.run_id} went on", f"after steps {steps}: {record.status}", bool(steps)
    logs = [path.read_text() for path in study.results("cluster").rglob("logs/**/*.log")]
    saved = [line for text in logs for line in text.splitlines() if "goes on after step" in line]
    yield "what its logs say", "; ".join(saved)[:200], len(saved) == 3
    yield "the same here, killed by nobody", *study.compare(less=RESUMED)


def caught(study: Study, method: str, pipeline: subprocess.Popen[bytes]) -> dict[str, str] | None:
    """The job of a method's run once it runs and has saved; None where it ends before."""
    run = f"train/mini/{method}/rte/s42/t0"
    place = study.results("cluster") / "runs" / run

    def job() -> dict[str, str] | None:
        named = (job for job in study.jobs() if run.replace("/", "_") in job["rule"])
        return next((job for job in named if job["state"] == "RUNNING"), None)

    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until and pipeline.poll() is None:
        if (place / "record.json").exists():
            return None
        if any((place / "checkpoints").glob("step-*")) and (found := job()):
            return found
        time.sleep(0.2)
    return None


def nodes(folder: Path) -> Iterator[Outcome]:
    """Ranks over two nodes, in one allocation."""
    study = Study(folder / "nodes", "nodes")
    code = study.do("cluster", "--resources", "ranks_per_node=1", "machine=1")
    asked = study.asked("train")
    seen = f"exit code {code}, {asked.get('NumNodes')} nodes ({asked.get('NodeList')})"
    yield "two ranks with a node each", seen, code == 0 and asked.get("NumNodes") == "2"
    yield "the same here, in one launcher", *study.compare()


def gpus(folder: Path) -> Iterator[Outcome]:
    """What a run on GPUs asks for; there are none."""
    study = Study(folder / "gpus", "gpus")
    options = ["--resources", "ranks_per_node=2", "machine=1", "--retries", "0"]
    study.do("cluster", *options)
    asked = study.asked("measure")
    seen = {name: asked.get(name, "") for name in ("NumNodes", "TresPerJob", "OverSubscribe")}
    good = seen == {"NumNodes": "2", "TresPerJob": "gres:gpu:4", "OverSubscribe": "NO"}
    yield "a measured run of four GPUs, two a node", str(seen), good


def tiny(folder: Path) -> Iterator[Outcome]:
    """The default study, its short runs in groups."""
    study = Study(folder / "tiny", "tiny", ROOT / "config" / "tiny.yaml")
    for place in ("local", "cluster"):
        shutil.copy(ROOT / "config" / "models.yaml", study.folder / place / "config")
    groups = ["--groups", "train=runs", "measure=measured"]
    begun = time.monotonic()
    code = study.do("cluster", *groups, "--group-components", "runs=29", "measured=9")
    seen = f"exit code {code}, {(time.monotonic() - begun) / 60:.1f} min"
    yield "the study tiny on the cluster", seen, code == 0
    yield "the same here", *study.compare()


def main() -> int:
    """Tries, tells, and gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder for all files; else they are removed")
    parser.add_argument("--only", nargs="+", help="of small, killed, nodes, gpus, tiny")
    parser.add_argument("--tiny", action="store_true", help="also the default study")
    options = parser.parse_args()
    try:
        slurm.check()
    except slurm.NotHere as error:
        print(f"no Slurm can be started here: {error}", file=sys.stderr)
        return 2
    chosen = options.only or [
        "small",
        "killed",
        "nodes",
        "gpus",
        *(["tiny"] if options.tiny else []),
    ]
    folder = options.keep or Path(tempfile.mkdtemp(prefix="lomo-cluster-"))
    folder.mkdir(parents=True, exist_ok=True)
    cluster = slurm.Cluster(folder.resolve() / "slurm")
    stages = {"small": small, "nodes": nodes, "gpus": gpus, "tiny": tiny}
    all_well = True
    try:
        cluster.start()
        for name in chosen:
            outcomes = killed(folder, cluster) if name == "killed" else stages[name](folder)
            for done, seen, well in outcomes:
                print(f"{'ok ' if well else 'BAD'}  {name:7} {done:42} {seen}", flush=True)
                all_well &= well
    except slurm.NotHere as error:
        print(f"no Slurm could be started: {error}", file=sys.stderr)
        return 2
    finally:
        left = cluster.stop()
        print(f"{'BAD' if left else 'ok '}  {'end':7} {'daemons that did not end':42} {len(left)}")
        if all_well and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        elif not all_well:
            print(f"all files are in {folder}; the ends of what Snakemake said:")
            for log in sorted(folder.glob("*/*/snakemake.log")):
                last = log.read_text(errors="replace").splitlines()[-15:]
                print(f"--- {log.relative_to(folder)}", *last, sep="\n")
    return 0 if all_well and not left else 1


if __name__ == "__main__":
    sys.exit(main())
