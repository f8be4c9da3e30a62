"""A study of seconds in a folder of its own, and what is asked of it after a fault."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks.same_results import compared

ROOT = Path(__file__).parents[2]
STUDY = """
study: mini
title: a study that meets faults
data: generated
device: cpu
protocol: paper
generated: {num_sentences: 300, num_train: 60, num_val: 20}
superglue:
  models: [mini]
  methods: [zero_shot, lomo]
  tasks: [boolq]
  settings: {epochs: 12, batch_size: 8, num_train: 32, num_dev: 8, num_test: 16, max_length: 200,
             dtype: float32, activation_checkpointing: false, checkpoint_interval_s: 0.01}
memory:
  models: [mini]
  methods: [lomo]
  batch_size: 2
  sequence_length: 32
  dtype: float32
  num_timed_steps: 3
"""
RESULTS = Path("results/mini")
LOMO_RUN = RESULTS / "runs/train/mini/lomo/boolq/s42/t0"
TABLES = f"{RESULTS}/tables/verdicts.csv"
LONGEST_S = 300
# Of a run that went on after it was stopped: its speed is taken of fewer steps.
_OF_A_STOP = re.compile(
    r"resumed_at_steps|checkpoints_refused|num_(warmup|timed)_steps|num_tokens|padding"
)


class Place:
    """A working folder with the study in it, where a Snakefile runs: the project's, or another."""

    def __init__(self, folder: Path, *, checkout: Path = ROOT, python: Path | None = None) -> None:
        self.folder, self.checkout = folder, checkout
        self.python = python or Path(sys.executable)
        self.before: Sequence[str] = ()  # put in front of the command: setpriv, unshare, prlimit
        self.environment: dict[str, str] = {}
        self.finished: dict[str, str] = {}  # record -> its digest, at the time of the fault
        self.started: list[subprocess.Popen[str]] = []
        self.expected = "nothing^"  # differences that the fault itself makes

    @property
    def results(self) -> Path:
        return self.folder / RESULTS

    def start(self, *targets: str, study: str = "study.yaml") -> subprocess.Popen[str]:
        """Starts the pipeline; what it says goes to output-N.txt beside the folder."""
        command = [
            *self.before,
            str(self.python.with_name("snakemake")),
            *("--snakefile", str(self.checkout / "Snakefile"), "--configfile", study),
            *("--cores", "2", *targets),
        ]
        environment = {**os.environ, "PYTHONPATH": str(self.checkout), **self.environment}
        with self._output(len(self.started)).open("w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def run(self, *targets: str, study: str = "study.yaml") -> tuple[int, str]:
        """Exit code and output of the whole pipeline, or of what makes `targets`."""
        process = self.start(*targets, study=study)
        try:
            code = process.wait(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            kill_all(process)
            return -1, f"{self.said()}\nit did not end in {LONGEST_S} s"
        return code, self.said()

    def said(self, start: int = -1) -> str:
        """What a start has said, the last one's if none is named."""
        number = range(len(self.started))[start]
        return self._output(number).read_text(encoding="utf-8", errors="replace")

    def _output(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}-output-{number}.txt")

    def note_finished(self) -> None:
        """What stands now was finished before the fault, or in spite of it: it has to stay."""
        self.finished = {
            str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.results.glob("runs/**/record.json")
            if is_whole(path)
        }

    def lost(self) -> list[str]:
        """Finished records that are gone or were made again, and what is half and was left."""
        gone = [
            name
            for name, digest in self.finished.items()
            if not (self.folder / name).is_file()
            or hashlib.sha256((self.folder / name).read_bytes()).hexdigest() != digest
        ]
        left = [path for path in self.results.rglob(".*.tmp") if path.parent.name != ".snakemake"]
        return gone + [str(path.relative_to(self.folder)) for path in left]

    def differences(self, reference: Path) -> list[str]:
        """What the records and tables say otherwise than those of `reference` (its results)."""
        found = []
        for name, lines in compared(reference, self.results):
            found += [f"{name}: {line}" for line in lines or [] if not _OF_A_STOP.search(line)]
        return [line for line in found if not re.search(self.expected, line)]


def is_whole(path: Path) -> bool:
    """Whether a file holds JSON."""
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def copy_of(reference: Path, folder: Path, *without: str) -> None:
    """A copy of a working folder, with times, less some of what stands in its results."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(reference, folder, symlinks=True, dirs_exist_ok=True)
    for name in without:
        for path in (folder / RESULTS).glob(name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The process and all that it has started; its warm process and its runs are among them."""
    try:
        top = psutil.Process(process.pid)
        return [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kills it with all that it has started."""
    for one in family(process):
        kill(one)
    process.wait()


def kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        pass


def wait_until(what: Callable[[], bool], seconds: float = LONGEST_S) -> bool:
    """Waits until it is so; whether it came to that."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def draw(*of: object) -> random.Random:
    """Chance that is the same in each session."""
    return random.Random(repr(of))


def preloaded(folder: Path, what: str) -> dict[str, str]:
    """The environment in which a shim stands before the system's own calls; it is compiled once."""
    shim = folder / f"{what.lower()}.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    if not shim.is_file():
        made = shim.with_suffix(f".{os.getpid()}")
        source = Path(__file__).with_name("shims.c")
        command = [compiler, "-shared", "-fPIC", f"-D{what}", "-o", made, source, "-ldl"]
        subprocess.run([str(word) for word in command], check=True)
        made.replace(shim)
    return {"LD_PRELOAD": str(shim)}
