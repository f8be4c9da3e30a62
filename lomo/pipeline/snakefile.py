"""What the Snakefile needs around its jobs.

What Snakemake's own command line takes in silence and drops is told before a study is planned; jobs
inherit what they need; failed ones are heard; and while the pipeline works there is one line of
progress: runs done, what runs, and the time left. On a terminal it stands below all other output
and is drawn anew; elsewhere a line is written now and then.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TextIO

from lomo.errors import UserError
from lomo.forecast.command import duration
from lomo.forecast.estimates import ANYWAY
from lomo.model.registry import CHECKOUT
from lomo.pipeline.status import Status, Study
from lomo.study.plan import Plan
from lomo.system.command import CLEAR, SILENT


def check_given_config(arguments: Sequence[str]) -> None:
    """Raises UserError where `--config` names a key twice, or stands there twice.

    Snakemake keeps the last of them and forgets the others.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", "-C", nargs="*", action="append", default=[])
    given = parser.parse_known_args(list(arguments))[0].config
    entries = [entry.partition("=") for group in given for entry in group]
    keys = [key for key, _, _ in entries]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        values = [value for key, _, value in entries if key == twice]
        raise UserError(
            f"is given {len(values)} times, and Snakemake takes the last alone",
            where=f"--config {twice}",
            fix=f"write {twice}='[{', '.join(values)}]' for several, or leave the others out",
        )
    if len(given) > 1:
        raise UserError(
            "is given more than once, and Snakemake takes the last alone",
            where="--config",
            fix=f"write one: --config {' '.join(map(''.join, entries))}",
        )


def settle_place(checkout: str | Path) -> None:
    """What this process and Snakemake's jobs know of where they are, in any working folder.

    The registry is that of `checkout` where the working folder has none. A job imports this
    package, and nothing that lies in the working folder under the name of a module.
    """
    os.environ[CHECKOUT] = str(Path(checkout).resolve())
    os.environ["PYTHONSAFEPATH"] = "1"
    own = str(Path(__file__).resolve().parents[2])
    others = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if "site-packages" not in own:
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([own, *others]))


def settle_jobs(wandb: str, *, launch_anyway: bool = False) -> None:
    """What Snakemake's jobs inherit: its Python, one line a job and no bars, and W&B or not.

    launch_anyway: whether a run that is predicted not to fit is launched all the same.
    """
    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
    os.environ["LOMO_QUIET"] = "1"
    os.environ["LOMO_WANDB"] = wandb
    os.environ[ANYWAY] = "1" if launch_anyway else ""


# Whole, but for one that would push all others out of sight.
_LOG_LINES = 400


def failed_logs(logs: Iterable[Path], *, since: float) -> str:
    """The end of each log that was written after `since` (a time stamp) and is not empty."""
    parts = []
    for path in logs:
        try:
            if path.stat().st_mtime < since:
                continue
            text = path.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if text:
            lines = text.splitlines()
            left_out = len(lines) - _LOG_LINES
            head = f"{path}, less its first {left_out} lines:" if left_out > 0 else f"{path}:"
            parts.append("\n".join([head, *lines[-_LOG_LINES:]]))
    return "\n\n".join(parts)


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
    elif status.seconds_left:
        untimed = f" without {status.num_untimed} scores of suites" if status.num_untimed else ""
        parts.append(f"about {duration(status.seconds_left)} left{untimed}")
    if status.running:
        parts.append(status.running[0].run_id)
    line = "  ".join(parts)
    return line if len(line) < width else line[: width - 4] + "..."
