"""Starts the ranks of a run, as torchrun does, and hears of the first that fails.

What is started is the same command line again, so `torchrun --nproc-per-node N -m lomo ...` does
the same. A rank that ends badly takes all others with it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

from lomo.engines.nodes import Meeting, leave_words
from lomo.engines.nodes import launch_on_nodes as start_on_nodes
from lomo.errors import UserError
from lomo.system.interrupts import Interrupted, noted

_RANK = "RANK"
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torchrun gives each rank a file for its last words
_PR_SET_PDEATHSIG = 1
_STARTED_AT = "LOMO_STARTED_AT"


class RankFailed(Exception):
    """A rank has ended badly; `kind` is oom or bug, `step` the one it was in, if it said so."""

    def __init__(self, message: str, *, kind: str = "bug", step: int | None = None) -> None:
        super().__init__(message)
        self.kind, self.step = kind, step


def is_rank() -> bool:
    """Whether this process was started as a rank, by `launch` or by torchrun."""
    return _RANK in os.environ


def rank_started_at() -> float | None:
    """When the run of this rank began, in seconds since the epoch, if `launch` has started it."""
    started_at = os.environ.get(_STARTED_AT)
    return None if started_at is None else float(started_at)


def end_with_launcher() -> None:
    """This rank is killed when the process that has started it dies.

    A launcher that was killed lets go of the run's folder, and the next one would meet its ranks
    there.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def launch(arguments: Sequence[str], num_devices: int, *, started_at: float) -> None:
    """Runs `python -m lomo` with `arguments` in `num_devices` ranks, and waits for all.

    A SIGTERM or Ctrl-C is handed on to the ranks, which end when they have saved. Raises UserError
    for what a rank found to be the user's mistake, Interrupted, and RankFailed for all else.
    """
    os.environ[_STARTED_AT] = repr(started_at)
    try:
        words = _launch(arguments, num_devices, Meeting("127.0.0.1:0", uuid.uuid4().hex, 1))
    finally:
        del os.environ[_STARTED_AT]
    if words is not None:
        raise _as_error(words)


def launch_on_nodes(
    arguments: Sequence[str],
    num_devices: int,
    nodes: int,
    folder: Path,
    *,
    num_threads: int,
    started_at: float,
) -> None:
    """The same, the ranks spread over the nodes of this Slurm allocation.

    num_threads: of a rank; folder: of the run, which all nodes see.
    """
    environment = {**os.environ, _STARTED_AT: repr(started_at)}
    threads = num_threads * (num_devices // nodes)
    words = start_on_nodes(arguments, nodes, threads, folder, environment)
    if words is not None:
        raise _as_error(words)


def launch_on_this_node(
    arguments: Sequence[str], num_devices: int, met: Meeting, folder: Path
) -> None:
    """Its share of the ranks, on one of the nodes that `launch_on_nodes` has started this on."""
    words = _launch(arguments, num_devices // met.num_nodes, met)
    if words is not None:
        leave_words(folder, words)
        raise _as_error(words)


def _launch(arguments: Sequence[str], num_ranks: int, met: Meeting) -> dict[str, Any] | None:
    """Runs this node's ranks; the words of the one that ended badly first, None if none did."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # It would tell at length what is told below in one line.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=met.num_nodes,
        max_nodes=met.num_nodes,
        nproc_per_node=num_ranks,
        run_id=met.name,
        rdzv_backend="c10d",
        rdzv_endpoint=met.endpoint,
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle="SIGHUP,SIGQUIT",  # of the others it would kill the ranks after 30 s
    )
    try:
        with noted(_hand_on) as asked:
            elastic_launch(config, sys.executable)("-m", "lomo", *arguments)
    except ChildFailedError as error:
        words = _first_words(error.failures)
        if asked.number is not None and words["kind"] not in ("user", "interrupted"):
            name = signal.Signals(asked.number).name
            told = f"rank: ended by {name} before the ranks had begun"
            return {**words, "kind": "interrupted", "message": told, "number": asked.number}
        return words
    return None


def _hand_on(number: int) -> None:
    ranks = [
        child for child in psutil.Process().children(recursive=True) if _RANK in _environment(child)
    ]
    if not ranks:
        raise Interrupted(f"ended by {signal.Signals(number).name} before the ranks", number)
    for rank in ranks:
        with suppress(psutil.Error):
            rank.send_signal(number)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _first_words(failures: Mapping[int, Any]) -> dict[str, Any]:
    """Of all ranks that ended badly the one that began it; the others lost their connection."""
    order = {"user": 0, "oom": 0, "interrupted": 0, "killed": 1, "bug": 2, "ended": 3}
    found = [_words(rank, failure) for rank, failure in sorted(failures.items())]
    return min(found, key=lambda words: (order[words["kind"]], words["at"]))


def _as_error(words: Mapping[str, Any]) -> Exception:
    if words["kind"] == "user":
        return UserError(**words["error"])
    if words["kind"] == "interrupted":
        return Interrupted(words["message"].partition(": ")[2], words["number"])
    kind = "oom" if words["kind"] == "oom" else "bug"
    return RankFailed(words["message"], kind=kind, step=words.get("step"))


def _words(rank: int, failure: Any) -> dict[str, Any]:
    told = failure.error_file_data.get("message")
    if isinstance(told, dict):
        words: dict[str, Any] = told["extraInfo"]
        return {**words, "message": f"rank {rank}: {told['message']}"}
    code: int = failure.exitcode
    # torchrun itself terminates (15) those that are left.
    if code < 0 and code != -signal.SIGTERM:
        hint = " (often the kernel's, when memory runs out)" if code == -signal.SIGKILL else ""
        return {"kind": "killed", "at": 0, "message": f"rank {rank} got signal {-code}{hint}"}
    return {"kind": "ended", "at": 0, "message": f"rank {rank} ended with exit code {code}"}


def leave() -> NoReturn:
    """Ends the process of a rank that has done its work, past the end of the interpreter.

    There a thread of gloo that has yet to let go of a tensor finds no interpreter to do it with,
    and aborts the process (signal 6).
    """
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


@contextmanager
def last_words() -> Iterator[None]:
    """Tells whoever started this rank why it ends; nothing where it is no rank."""
    try:
        yield
    except UserError as error:
        given = {"where": error.where, "allowed": error.allowed, "fix": error.fix}
        if not _tell(error, "user", error={"what": error.what, **given}):
            raise
        sys.exit(2)
    except Interrupted as error:
        if not _tell(error, "interrupted", number=error.number):
            raise
        sys.exit(error.exit_code)
    except RankFailed as error:
        if not _tell(error, error.kind, step=error.step):
            raise
        sys.exit(1)
    except Exception as error:
        _tell(error, "bug")
        raise


def _tell(cause: Exception, kind: str, **more: object) -> bool:
    path = os.environ.get(_ERROR_FILE)
    if not (is_rank() and path):
        return False
    name = "" if isinstance(cause, RankFailed | Interrupted) else f"{type(cause).__name__}: "
    message = f"{name}{cause}"
    # The outer keys are torchrun's.
    extra = {"timestamp": str(int(time.time())), "at": time.time(), "kind": kind, **more}
    words = {"message": {"message": message, "extraInfo": extra}}
    Path(path).write_text(json.dumps(words), encoding="utf-8")
    return True
