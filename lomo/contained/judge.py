"""One program, judged: it runs in one sandbox, its test in another, and the test tells the verdict.

Two pipes join the two, and carry calls and answers as plain data. The verdict comes by a third pipe
which only the test's process holds, with a nonce that only that process was told.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import subprocess
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, BinaryIO

from lomo.contained.sandbox import NotContainedError, Process, pipe, sandbox

# Until both sides have started; nobody's code has run by then.
_START_S = 60.0
# Until an ended sandbox has gone by itself, and until a killed one has let go of its pipes.
_GONE_S, _END_S = 2.0, 10.0
_CHUNK = 1 << 16


class UnfitTestError(ValueError):
    """A test that calls the program with what is no plain data: nothing can be said of programs."""


@dataclass(frozen=True)
class Limits:
    """What a program may take: processor and wall time, address space, and what is kept of words.

    Wall time is long beside processor time, so that a busy machine fails no program.
    """

    cpu_s: int = 5
    wall_s: float = 30.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 10_000


@dataclass(frozen=True)
class Judged:
    """Whether a program passed, why not, what it printed (cut), and the seconds it took."""

    passed: bool
    why: str
    output: str
    wall_s: float


def judge(
    program: str, *, prompt: str, test: str, entry_point: str, limits: Limits | None = None
) -> Judged:
    """Whether `program` defines an `entry_point` that passes the function `check` of `test`.

    `prompt` is what of the program is known to be good: the test may call what it defines. Raises
    NotContainedError where a sandbox can't be made, UnfitTestError where the test can't be asked.
    """
    limits = limits or Limits()
    nonce = secrets.token_hex(32)
    told = {"entry_point": entry_point, "cpu_s": limits.cpu_s, "memory_bytes": limits.memory_bytes}
    of_test = told | {"prompt": prompt, "test": test, "nonce": nonce}
    with ExitStack() as held:
        calls, answers, verdict = ([held.enter_context(end) for end in pipe()] for _ in range(3))
        solution = held.enter_context(
            sandbox("solution", told | {"program": program}, calls=calls[0], answers=answers[1])
        )
        checker = held.enter_context(
            sandbox("checker", of_test, calls=calls[1], answers=answers[0], verdict=verdict[1])
        )
        # With our copies gone, either side sees when the other ends.
        for theirs in (*calls, *answers, verdict[1]):
            theirs.close()
        watch = held.enter_context(_Watch(verdict[0], solution, checker, limits.output_bytes))
        passed, why = watch.verdict(nonce, limits.wall_s)
        if why == "ended":
            why = _how_it_ended(solution)
        wall_s = time.monotonic() - watch.started_at
        for side in (solution, checker):
            side.kill()
        watch.until_closed()
        return Judged(passed, why, watch.said[solution].decode(errors="replace"), wall_s)


def _printable(words: str) -> str:
    # The words of a program that would move a terminal's cursor.
    return "".join(letter if letter.isprintable() else "?" for letter in words)


def _how_it_ended(process: Process) -> str:
    try:
        return f"the program ended early (exit code {process.wait(_GONE_S)})"
    except subprocess.TimeoutExpired:
        return "the program closed its pipes"


class _Watch:
    """Reads the verdict, and what both sides print, so that no side waits for a reader."""

    def __init__(
        self, verdict: BinaryIO, solution: Process, checker: Process, output_bytes: int
    ) -> None:
        self.started_at = time.monotonic()
        self.said = {solution: bytearray(), checker: bytearray()}
        self._output_bytes = output_bytes
        self._messages = bytearray()
        self._selector = selectors.DefaultSelector()
        self._selector.register(verdict, selectors.EVENT_READ, None)
        for side in self.said:
            assert side.stdout
            self._selector.register(side.stdout, selectors.EVENT_READ, side)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def verdict(self, nonce: str, wall_s: float) -> tuple[bool, str]:
        """Whether it passed, and why not. Raises NotContainedError if a side did not start."""
        start = self._message(self.started_at + _START_S)
        if start is None or start.get("nonce") != nonce:
            words = b" ".join(bytes(said).strip() for said in self.said.values())
            raise NotContainedError(words.decode(errors="replace").strip() or "it did not start")
        self.started_at = time.monotonic()
        end = self._message(self.started_at + wall_s)
        if end is not None and end.get("nonce") == nonce:
            if "unfit" in end:
                raise UnfitTestError("it calls the program with what is no plain data")
            return end["passed"] is True, _printable(str(end["why"]))
        late = time.monotonic() >= self.started_at + wall_s
        return False, f"out of time ({wall_s:g} s)" if late else "the test ended early"

    def until_closed(self) -> None:
        """Reads to the end. Raises NotContainedError where a killed sandbox does not end."""
        until = time.monotonic() + _END_S
        while self._selector.get_map():
            if time.monotonic() > until:
                raise NotContainedError("a sandbox that was killed is still there")
            self._read(until)

    def _message(self, until: float) -> dict[str, Any] | None:
        """The next message of the test's process; None if there is none, or none before `until`."""
        while b"\n" not in self._messages:
            open_still = any(key.data is None for key in self._selector.get_map().values())
            if not open_still or time.monotonic() >= until:
                return None
            self._read(until)
        line, _, self._messages = self._messages.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def _read(self, until: float) -> None:
        for key, _ in self._selector.select(max(0.0, until - time.monotonic())):
            chunk = os.read(key.fd, _CHUNK)
            if not chunk:
                self._selector.unregister(key.fileobj)
            elif key.data is None:
                self._messages += chunk
            else:
                said = self.said[key.data]
                said += chunk[: self._output_bytes - len(said)]
