"""A process that has done all imports and forks each run: short runs would be half imports.

A run is still one process of its own with its own directory and record. Snakemake starts
`python -m lomo warm` once, on a CPU and on this machine only; `python -m lomo train ...` then
hands its command line and its output over the socket that LOMO_WARM names, and waits. Where there
is no such socket, a command simply runs in its own process.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lomo.system.command import Command
from lomo.system.processes import settle

Main = Callable[[list[str]], int]

HANDED_OVER = ("train", "instruct", "measure", "pretrain", "suite")
_PRELOADED = (
    "transformers.models.llama.modeling_llama",
    "peft",
    "lm_eval.models.huggingface",
    "lm_eval.tasks",
    "lomo.run.train",
    "lomo.run.instruct.work",
    "lomo.run.measure",
    "lomo.run.pretrain",
    "lomo.run.suites.execute",
    "lomo.optim",
)
_PR_SET_PDEATHSIG = 1
_SIGNALLED = 128  # what a shell adds to the number of the signal that killed a command
_HINTS = {9: " (often the kernel's, when memory runs out)"}
_START_S = 120.0
_END = b"\n"  # of a request, whose JSON holds none


def hand_over(arguments: Sequence[str]) -> int | None:
    """The exit code of the command, run by the warm process; None if there is none to ask."""
    path = os.environ.get("LOMO_WARM")
    if not path or not arguments or arguments[0] not in HANDED_OVER:
        return None
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            with _short(Path(path)) as address:
                connection.connect(address)
        except OSError:
            return None
        request = json.dumps({"arguments": list(arguments), "folder": str(Path.cwd())})
        data = request.encode() + _END
        try:
            sent = socket.send_fds(connection, [data], [1, 2])
            connection.sendall(data[sent:])
            answer = connection.recv(16)
        except OSError:
            answer = b""
    if not answer:
        # The run itself may live on: its lock makes us wait for it and take its record.
        print("the warm process has died; running without it", file=sys.stderr)
        return None
    if int(answer) > _SIGNALLED:
        signal_number = int(answer) - _SIGNALLED
        print(
            f"the run was killed by signal {signal_number}{_HINTS.get(signal_number, '')}",
            file=sys.stderr,
        )
    return int(answer)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """`path` as the address of a socket, which holds 107 bytes: below an opened folder."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def start(path: Path, num_threads: int) -> subprocess.Popen[bytes]:
    """Starts the warm process of a study and waits until it is ready.

    It ends with this process, however this one ends.
    """
    path.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "lomo", "warm", "--socket", str(path)],
        env={**os.environ, "OMP_NUM_THREADS": str(num_threads)},
    )
    deadline = time.monotonic() + _START_S
    # No run starts before: it would share the machine with these imports.
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.environ["LOMO_WARM"] = str(path)
    return process


def serve(path: Path, main: Main) -> None:
    """Imports, listens on `path`, and forks a process for each command, until it is terminated.

    main: what does a command line and gives its exit code.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:
        return  # Snakemake ended before we could ask to be told
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the jobs, and they let go
    for module in _PRELOADED:
        importlib.import_module(module)
    runs: dict[int, socket.socket] = {}
    signal.signal(signal.SIGTERM, lambda *_: _end(runs, path))
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        try:
            with _short(path) as address:
                listener.bind(address)
        except OSError as error:
            print(f"no warm process ({path}: {error.strerror}); runs import anew", file=sys.stderr)
            return
        listener.listen(64)
        selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select(timeout=0.02):
                if key.fileobj is listener:
                    client = _Client(listener.accept()[0])
                    selector.register(client.connection, selectors.EVENT_READ, data=client)
                elif isinstance(key.data, _Client):
                    _hear(key.data, selector, runs, main)
                else:
                    _let_go(key.data)
                    selector.unregister(key.fileobj)
            _reap(runs, selector)


@dataclass
class _Client:
    """Who has connected, and what they have said so far: nothing, for as long as they like."""

    connection: socket.socket
    request: bytes = b""
    outputs: list[int] = field(default_factory=list)


def _hear(
    client: _Client,
    selector: selectors.BaseSelector,
    runs: dict[int, socket.socket],
    main: Main,
) -> None:
    """Takes what a client says now; with the end of its request, forks its run."""
    connection = client.connection
    try:
        heard, outputs, _, _ = socket.recv_fds(connection, 1 << 20, 2)
    except OSError:
        heard, outputs = b"", []
    client.request += heard
    client.outputs += outputs
    if heard and not client.request.endswith(_END):
        return
    selector.unregister(connection)
    if heard and len(client.outputs) == 2:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            # Held open here, they would keep waiting those whose run has ended.
            others = [key.fileobj for key in selector.get_map().values()]
            for held in (connection, *runs.values(), *others):
                if isinstance(held, socket.socket):
                    held.close()
            selector.close()
            _run(client.request, client.outputs, main)
        runs[child] = connection
        selector.register(connection, selectors.EVENT_READ, data=child)
    else:
        connection.close()
    for output in client.outputs:
        os.close(output)


def _run(request: bytes, outputs: Sequence[int], main: Main) -> None:
    """Becomes the process of one command; never returns."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(outputs[0], 1)
        os.dup2(outputs[1], 2)
        asked: dict[str, Any] = json.loads(request)
        os.chdir(asked["folder"])
        code = main(asked["arguments"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _reap(runs: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    for child in list(runs):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            connection = runs.pop(child)
            with contextlib.suppress(OSError, KeyError):
                selector.unregister(connection)
            code = os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):
                connection.sendall(str(code if code >= 0 else _SIGNALLED - code).encode())
            connection.close()


def _let_go(child: int) -> None:
    """The command that asked for this run is gone: nobody waits for it any more."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)


def _end(runs: dict[int, socket.socket], path: Path) -> None:
    for child, connection in runs.items():
        _let_go(child)
        # Unanswered, the command would do the run itself, beside those of the next start.
        with contextlib.suppress(OSError):
            connection.sendall(str(_SIGNALLED + signal.SIGTERM).encode())
    path.unlink(missing_ok=True)
    os._exit(0)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--socket", type=Path, required=True, help="where runs ask")


def _run_command(options: argparse.Namespace) -> None:
    settle(int(os.environ.get("OMP_NUM_THREADS", "1")))
    serve(options.socket, options.main)


COMMANDS = {"warm": Command(_add_options, _run_command)}
