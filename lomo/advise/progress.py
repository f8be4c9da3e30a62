"""What is being done, on stderr: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

EVERY_S = 3.0


class Progress:
    """Counts pieces of work. Nothing is shown where `quiet`, or before EVERY_S on no terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet, self.num_done, self.num = quiet, 0, 0
        self.shown_at = time.perf_counter()
        self.on_terminal = sys.stderr.isatty()

    def more(self, names: Sequence[str]) -> None:
        """So many pieces more are to be done."""
        self.num += len(names)
        self._show(f"simulating {names[0]}" if names else "")

    def done(self, name: str) -> None:
        """A piece is done."""
        self.num_done += 1
        self._show(name)

    def end(self) -> None:
        """Takes the bar away."""
        if self.on_terminal and not self.quiet:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _show(self, what: str) -> None:
        line = f"{self.num_done} of {self.num} simulations  {what}"
        if self.quiet:
            return
        if self.on_terminal:
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
        elif time.perf_counter() - self.shown_at > EVERY_S:
            self.shown_at = time.perf_counter()
            print(line, file=sys.stderr, flush=True)
