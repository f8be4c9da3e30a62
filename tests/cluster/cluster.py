"""A real Slurm of two nodes on this machine: its daemons, and what can befall a node."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

NODES = {"n1": 17001, "n2": 17002}
GPUS = 2  # a node
NEEDED = ("slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "munged")
# Its default path: the executor plugin takes SLURM_CONF out of a job's environment.
CONFIGURATION = Path("/etc/slurm/slurm.conf")
GENERIC = CONFIGURATION.with_name("gres.conf")
MUNGE = Path("/run/munge")
MARK = "# written by tests/cluster, and removed by it\n"
DEBIAN = "apt-get install --no-install-recommends slurm-wlm munge"


class NotHere(Exception):
    """This machine can't have the cluster; why, and what to do."""


def check() -> None:
    """Raises NotHere where no Slurm can be started."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise NotHere(f"{', '.join(missing)} not found; on Debian: {DEBIAN}")
    if os.geteuid() != 0:
        raise NotHere("Slurm's daemons start jobs as their users: be root, or use a container")
    for path in (CONFIGURATION, GENERIC):
        if path.exists() and not path.read_text().startswith(MARK):
            raise NotHere(f"{path} is of another Slurm; try it on a machine that has none")


class Cluster:
    """Slurm with two nodes, which are both this machine; its files lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.munged = False

    def start(self) -> None:
        """Starts all daemons and waits for both nodes. Raises NotHere where that fails."""
        self._clear()
        (self.folder / "controller").mkdir(parents=True)
        memory = psutil.virtual_memory().total // 2**20 // len(NODES)
        CONFIGURATION.parent.mkdir(exist_ok=True)
        CONFIGURATION.write_text(MARK + configuration(self.folder, memory))
        # No GPU is here: each node counts two files as such.
        for number in range(GPUS):
            (self.folder / f"gpu{number}").touch()
        GENERIC.write_text(f"{MARK}Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")
        if not any(process.name() == "munged" for process in psutil.process_iter()):
            MUNGE.mkdir(exist_ok=True)
            shutil.chown(MUNGE, "munge", "munge")
            subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
            self.munged = True
        subprocess.run(["slurmctld"], check=True)
        for node in NODES:
            self.start_node(node)

    def start_node(self, node: str) -> None:
        """Starts a node's daemon and waits until Slurm gives it jobs."""
        subprocess.run(["slurmd", "-N", node], check=True)
        if not wait_for(lambda: state_of(node) in ("idle", "mixed", "allocated"), 90):
            log = self.folder / f"{node}.log"
            raise NotHere(
                f"node {node} is {state_of(node)}: see {log}, {self.folder}/controller.log"
            )

    def lose_node(self, node: str) -> int:
        """Kills a node's daemon and all that runs there; how many processes that was."""
        daemon = self._process(node)
        lost = [daemon] if daemon else []
        for process in psutil.process_iter(["cmdline"]):
            if process.name() == "slurmstepd" and self._is_of(process, node):
                lost += [process, *process.children(recursive=True)]
        # All stop at once, as on a lost node: a step's keeper that sees its script killed tells
        # the controller that the job has failed, and a failed job is not submitted again by Slurm.
        for end in (psutil.Process.suspend, psutil.Process.kill):
            for process in lost:
                with_patience(functools.partial(end, process))
        return len(lost)

    def stop(self) -> list[str]:
        """Ends all that was started; names of the daemons that did not end."""
        subprocess.run(["scancel", "--user=root"], capture_output=True, check=False)
        wait_for(lambda: not jobs(), 60)
        own = [self._process(name) for name in (*NODES, "controller")]
        if self.munged:
            own.append(_of_pid_file(MUNGE / "munged.pid"))
        running = [process for process in own if process is not None]
        for process in running:
            with_patience(process.terminate)
        _, left = psutil.wait_procs(running, timeout=20)
        self._clear()
        return [f"{process.pid}" for process in left]

    def _is_of(self, keeper: psutil.Process, node: str) -> bool:
        """Whether a step's keeper was started by the node's daemon: it writes into its log."""
        try:
            return any(found.path == f"{self.folder}/{node}.log" for found in keeper.open_files())
        except psutil.Error:
            return False

    def _process(self, name: str) -> psutil.Process | None:
        return _of_pid_file(self.folder / f"{name}.pid")

    def _clear(self) -> None:
        for path in (CONFIGURATION, GENERIC):
            path.unlink(missing_ok=True)


def configuration(folder: Path, memory_mb: int) -> str:
    """slurm.conf: no accounting and no control groups, and a lost node is noticed soon."""
    host, cores = socket.gethostname(), os.cpu_count() or 1
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} "
        f"RealMemory={memory_mb} Gres=gpu:{GPUS} State=UNKNOWN"
        for name, port in NODES.items()
    )
    return f"""\
ClusterName=try
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/controller
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/controller.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/controller.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MpiDefault=none
SlurmdTimeout=20
KillWait=30
MinJobAge=3600
ReturnToService=2
{nodes}
PartitionName=main Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
"""


def jobs(*, ended: bool = False) -> list[dict[str, str]]:
    """The jobs that wait or run, also those that have ended: name, state, folder, rule."""
    columns = {"id": "%i", "name": "%j", "state": "%T", "node": "%N", "folder": "%Z", "rule": "%k"}
    command = ["squeue", "--noheader", "-o", "|".join(columns.values())]
    done = subprocess.run(
        [*command, *(["--states=all"] if ended else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    return [dict(zip(columns, line.split("|"), strict=True)) for line in done.stdout.splitlines()]


def details(job: str) -> dict[str, str]:
    """All that Slurm tells of a job."""
    command = ["scontrol", "--oneliner", "show", "job", job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = (word.partition("=") for word in done.stdout.split())
    return {name: value for name, _, value in words}


def state_of(node: str) -> str:
    """What Slurm thinks of a node: idle, mixed, allocated, down."""
    command = ["sinfo", "--noheader", "-N", "-n", node, "-o", "%T"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip().rstrip("*~#$")


def wait_for(seen: Callable[[], object], seconds: float) -> bool:
    """Whether it was seen in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if seen():
            return True
        time.sleep(0.5)
    return bool(seen())


def with_patience(end: Callable[[], None]) -> None:
    """Ends a process, which may have ended by itself."""
    try:
        end()
    except psutil.NoSuchProcess:
        pass


def _of_pid_file(path: Path) -> psutil.Process | None:
    try:
        return psutil.Process(int(path.read_text()))
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None
