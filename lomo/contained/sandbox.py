"""One sandbox: a process in namespaces of its own that holds the pipes it is given, and no more."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from lomo.contained import bubblewrap, system_calls

Process = subprocess.Popen[bytes]


class NotContainedError(RuntimeError):
    """A sandbox could not be made: nothing was run, and nothing can be said of the program."""


@contextmanager
def sandbox(role: str, told: dict[str, Any], **pipes: BinaryIO) -> Iterator[Process]:
    """Runs the module `role` of `inside`, which is told `told` and the numbers of its `pipes`.

    What it prints is in the process's `stdout`. At the end it is killed, and with it all that it
    has started; so it is, too, when the thread that asked for it ends. Raises NotContainedError
    where there is no bubblewrap.
    """
    bwrap = bubblewrap.installed()
    if bwrap is None:
        raise NotContainedError("bubblewrap (bwrap) is not installed")
    numbers = {name: pipe.fileno() for name, pipe in pipes.items()}
    with (
        _in_memory(json.dumps(told | numbers).encode()) as task,
        _in_memory(system_calls.filter_bytes()) as allowed,
    ):
        process = subprocess.Popen(
            bubblewrap.command(bwrap, role, task_fd=task.fileno(), filter_fd=allowed.fileno()),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(task.fileno(), allowed.fileno(), *numbers.values()),
            cwd="/",
            env={},
        )
    try:
        yield process
    finally:
        # The first process in its namespaces dies with bwrap, and with that one all others there.
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


@contextmanager
def _in_memory(content: bytes) -> Iterator[BinaryIO]:
    with os.fdopen(os.memfd_create("told"), "w+b", buffering=0) as file:
        file.write(content)
        file.seek(0)
        yield file


def pipe() -> tuple[BinaryIO, BinaryIO]:
    """The end that reads and the end that writes; closed when they are no longer held."""
    reading, writing = os.pipe()
    return os.fdopen(reading, "rb", buffering=0), os.fdopen(writing, "wb", buffering=0)
