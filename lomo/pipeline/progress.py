"""One line of progress while a pipeline works: runs done, what runs, and the time left.

On a terminal it stands below all other output and is drawn anew; elsewhere a line is written now
and then.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import threading
from pathlib import Path
from typing import TextIO

from lomo.forecast.command import duration
from lomo.pipeline.status import Status, Study
from lomo.study.plan import Plan
from lomo.system.command import CLEAR, SILENT

_DRAWN_S, _WRITTEN_S = 1.0, 60.0
_BAR = 20
_CHATTER = re.compile(r"(Select jobs to execute|Execute \d+ jobs)\.\.\.")


class Progress(threading.Thread):
    """Looks at a study from `start` to `stop`, and tells. Jobs are silent from its making on."""

    def __init__(self, results: Path, plan: Plan, output: TextIO = sys.stderr) -> None:
        super().__init__(name="progress", daemon=True)
        self.study, self.output = Study(results, plan), output
        self.drawn = output.isatty()
        self._ending = threading.Event()
        self._last = ""
        if self.drawn:
            os.environ[SILENT] = "1"
        for handler in logging.getLogger("snakemake.logging").handlers:
            handler.addFilter(self._make_room)

    def run(self) -> None:
        """Draws or writes a line at each change until it is told to stop."""
        while not self._ending.wait(_DRAWN_S if self.drawn else _WRITTEN_S):
            line = line_of(self.study.look(), self._width())
            if self.drawn:
                # The cursor goes back to the first column: whoever writes next writes over it.
                self._write(f"{CLEAR}{line}\r")
            elif line != self._last:
                self._write(f"{line}\n")
            self._last = line

    def stop(self) -> None:
        """Ends it, and leaves no line behind."""
        self._ending.set()
        if self.is_alive():
            self.join(timeout=5)
        if self.drawn:
            self._write(CLEAR)

    def _make_room(self, record: logging.LogRecord) -> bool:
        """Whether Snakemake's message is shown: not that it chooses, starts and counts jobs."""
        if self._ending.is_set():
            return True
        event = getattr(getattr(record, "event", None), "value", None)
        shown = (
            event not in ("progress", "job_finished") and _CHATTER.match(str(record.msg)) is None
        )
        if shown and self.drawn:
            self._write(CLEAR)
        return shown

    def _width(self) -> int:
        return shutil.get_terminal_size((100, 24)).columns if self.drawn else 200

    def _write(self, text: str) -> None:
        try:
            self.output.write(text)
            self.output.flush()
        except (OSError, ValueError):  # the terminal is gone: nobody looks
            self._ending.set()


def line_of(status: Status, width: int) -> str:
    """One line of at most `width` characters: how many runs, the time left, what runs."""
    done = status.num_ended * _BAR // max(status.num_runs, 1)
    parts = [f"{status.study} [{'#' * done}{'.' * (_BAR - done)}]"]
    parts.append(f"{status.num_ended} of {status.num_runs} runs")
    other = status.num_ended - status.ended.get("ok", 0)
    if other:
        parts.append(f"{other} not ok")
    if status.failed:
        parts.append(f"{len(status.failed)} failed")
    if status.num_ended == status.num_runs:
        parts.append("tables and the page")
    elif status.seconds_left is not None:
        parts.append(f"about {duration(status.seconds_left)} left")
    if status.running:
        parts.append(status.running[0].run_id)
    line = "  ".join(parts)
    return line if len(line) < width else line[: width - 4] + "..."
