"""Ranks over several nodes of one Slurm allocation: `srun` starts a launcher on each.

The launchers meet on the node where they were started from, as torchrun's do, and each starts its
node's ranks. What ends one badly is left in the run's folder, which all nodes see.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.system.files import write_text
from lomo.system.interrupts import Interrupted, noted

_MEETING = "LOMO_MEETING"
_LEFT = ".node-"  # and the node's number: why its launcher ended


@dataclass(frozen=True)
class Meeting:
    """Where the launchers of a run's nodes meet, under which name, and how many they are."""

    endpoint: str
    name: str
    num_nodes: int


def meeting() -> Meeting | None:
    """Of the nodes that this process is one of; None where the run has one node alone."""
    told = os.environ.get(_MEETING)
    return None if told is None else Meeting(**json.loads(told))


def num_nodes() -> int:
    """Nodes that the run of this process is spread over."""
    met = meeting()
    return 1 if met is None else met.num_nodes


def is_launcher() -> bool:
    """Whether this process is to start the ranks of one node of several, and no more."""
    return _MEETING in os.environ


def check(nodes: int, num_devices: int) -> None:
    """Raises UserError where ranks cannot be spread so, or there is no allocation to do it in."""
    if num_devices % nodes:
        raise UserError(
            f"{num_devices} ranks are not to be spread evenly over {nodes} nodes", where="--nodes"
        )
    if not os.environ.get("SLURM_JOB_ID") or shutil.which("srun") is None:
        raise UserError(
            "more than one needs an allocation of Slurm's",
            where="--nodes",
            fix=f"salloc --nodes={nodes}, and the same command inside it",
        )


def launch_on_nodes(
    arguments: Sequence[str],
    nodes: int,
    num_threads: int,
    folder: Path,
    environment: dict[str, str],
) -> dict[str, Any] | None:
    """Runs `python -m lomo` with `arguments` on each of `nodes` nodes, and waits for all.

    num_threads: of all ranks of a node. The words of the node that failed first, None where none
    did. Raises Interrupted.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        endpoint = f"{socket.gethostname()}:{free.getsockname()[1]}"
    met = Meeting(endpoint, f"{os.environ['SLURM_JOB_ID']}-{os.getpid()}", nodes)
    _forget(folder)
    # One that fails takes the others with it. A step inside a step shares what that one holds.
    options = [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--overlap"]
    options += [f"--cpus-per-task={num_threads}", "--kill-on-bad-exit=1"]
    command = ["srun", *options, sys.executable, "-m", "lomo", *arguments]
    with noted() as asked:  # Slurm sends it to every node by itself
        told = {_MEETING: json.dumps(asdict(met))}
        code = subprocess.run(command, env={**environment, **told}, check=False).returncode
    if code == 0:
        return None
    found = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{_LEFT}*"))]
    _forget(folder)
    if asked.number is not None and not found:
        name = signal.Signals(asked.number).name
        raise Interrupted(f"ended by {name}, and not in order", asked.number)
    # srun ends the other nodes in order once one has failed: they are not what began it.
    began = [words for words in found if words["kind"] != "interrupted"] or found
    message = f"srun ended with exit code {code}, and no node has told why"
    lost = {"kind": "ended", "at": 0.0, "message": message}
    return min(began, key=lambda words: words["at"] or float("inf"), default=lost)


def leave_words(folder: Path, words: Mapping[str, Any]) -> None:
    """Tells whoever has started this launcher why it ends."""
    number = os.environ.get("SLURM_NODEID", str(os.getpid()))
    write_text(folder / f"{_LEFT}{number}", json.dumps(words))


def _forget(folder: Path) -> None:
    for path in folder.glob(f"{_LEFT}*"):
        path.unlink(missing_ok=True)
