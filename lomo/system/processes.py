"""Processes: what one is told before the libraries load, which read it only then; and work in
forked ones, which share what this one has imported.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import connection, get_context
from typing import Any, TypeVar


def settle(num_threads: int = 1) -> None:
    """No network, no chatter, threads as told: what every measuring process needs."""
    # Read by the libraries when they load: torch's own setting alone leaves MKL's behind.
    os.environ["OMP_NUM_THREADS"] = str(num_threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    quieten()
    import torch

    torch.set_num_threads(num_threads)


def quieten() -> None:
    """No chatter of libraries, neither of those that are loaded nor of those that will be."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # transformers reads both when it loads, which is not before a command needs it: it takes long.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    warnings.filterwarnings("ignore", category=FutureWarning)
    loaded: Any = sys.modules.get("transformers")
    if loaded is not None:
        loaded.logging.set_verbosity_error()
        loaded.utils.logging.disable_progress_bar()


Result = TypeVar("Result")


def results(
    work: Callable[[int], Result], num: int, num_processes: int
) -> Iterator[tuple[int, Result]]:
    """Calls `work` once with each number below `num`; number and result, as they come.

    With one process there is no other than this. Raises RuntimeError where a forked one fails.
    """
    if min(num_processes, num) < 2:
        for number in range(num):
            yield number, work(number)
        return
    # A pipe as the queue: it is written before the first fork, so each process ends by itself when
    # it is empty, and earlier where nobody is left to take a result.
    queue, writer = os.pipe()
    os.write(writer, b"".join(index.to_bytes(2, "big") for index in range(num)))
    os.close(writer)
    context = get_context("fork")
    processes = []
    ends: list[connection.Connection] = []

    def take(results_to: connection.Connection) -> None:
        for end in ends:
            end.close()
        gc.freeze()  # what is shared is no garbage here; to look through it takes and copies it
        while index := os.read(queue, 2):
            number = int.from_bytes(index, "big")
            results_to.send((number, work(number)))

    for _ in range(min(num_processes, num)):
        ours, theirs = context.Pipe(duplex=False)
        ends.append(ours)
        processes.append(context.Process(target=take, args=(theirs,)))
        processes[-1].start()
        theirs.close()
    os.close(queue)
    yield from _received(ends)
    for process in processes:
        process.join()
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise RuntimeError(f"{len(failed)} processes failed, exit codes {failed}; see above")


def _received(ends: list[connection.Connection]) -> Iterator[tuple[int, Result]]:
    """What comes out of the pipes until all are closed."""
    open_ends = list(ends)
    while open_ends:
        for end in connection.wait(open_ends):
            assert isinstance(end, connection.Connection)
            try:
                yield end.recv()
            except EOFError:
                end.close()
                open_ends.remove(end)
