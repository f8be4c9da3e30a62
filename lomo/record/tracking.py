"""What a run tells while it works: history.jsonl always, and a W&B run where the study wants it.

The same events make the same W&B run as the run works or afterwards. `wandb: online` sends them as
they come; `wandb: offline` writes them to disk from the finished records, in one process for all
runs, because starting W&B takes longer than a short run. Offline needs no key, no server and no
home folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lomo.errors import UserError
from lomo.record.remote.naming import LONGEST, config_of, settle_names, wandb_id
from lomo.record.remote.offline import is_whole
from lomo.record.remote.summary import record_at, summary_of
from lomo.record.schema import Record
from lomo.record.suite import SuiteRecord
from lomo.system.files import cannot_write, read_json, read_lines, write_text


class History:
    """Appends events to `history.jsonl`, and to W&B where LOMO_WANDB=online. Starts anew.

    Raises UserError where the file can't be written, or where W&B takes no run.
    """

    def __init__(self, study: str, run_id: str, spec: dict[str, Any], folder: Path) -> None:
        self._path = folder / "history.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            raise (cannot_write(self._path, error) or error) from None
        online = os.environ.get("LOMO_WANDB") == "online"
        self._wandb = WandbRun(study, run_id, spec, folder, "online") if online else None

    def add(self, event: str, **values: Any) -> None:
        """One event with its values."""
        # JSON knows no NaN and no infinity.
        for key, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                values[key] = None
        try:
            self._file.write(json.dumps({"event": event, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise (cannot_write(self._path, error) or error) from None
        self._tell("add", {"event": event, **values})

    def text(self) -> str:
        """All lines so far."""
        return self._path.read_text(encoding="utf-8")

    def begin_with(self, text: str) -> None:
        """Begins with the lines of an earlier process, which did the work so far, told W&B too."""
        try:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise (cannot_write(self._path, error) or error) from None
        if self._wandb is not None:
            last = [json.loads(line)["step"] for line in text.splitlines()]
            self._wandb.go_on_after(max(last, default=0))

    def close(self, record: Record | None) -> None:
        """Ends the history; without a record the run was the user's mistake, or met a bug."""
        with suppress(OSError):  # a line that the disk did not take was told when it was added
            self._file.close()
        self._tell("finish", record)

    def _tell(self, what: str, told: Any) -> None:
        """W&B may fail in the middle: the run goes on, and its history is in the file."""
        if self._wandb is None:
            return
        try:
            getattr(self._wandb, what)(told)
        except Exception as error:
            self._wandb = None
            print(f"W&B takes no more of this run ({error}); {self._path} has it", file=sys.stderr)


# W&B's own process may write its last lines a moment after it was said to be finished.
PATIENCE_S = 10.0
# Of the user's settings, those that say what a run is called. The others say where and how it is
# sent, and a wrong one stops W&B even where nothing is sent.
_NAMING = ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_TAGS", "WANDB_NOTES")


# What W&B would say of the machine by itself: load, hardware, packages, sources, its name.
UNTOLD: dict[str, Any] = {
    **{"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False},
    **{"console": "off", "disable_git": True, "disable_code": True},
    **{"host": "-", "program": "lomo"},
}


class WandbRun:
    """One run on W&B: grouped by study, its spec as config, the record's results as summary.

    Raises UserError where W&B will not begin it.
    """

    def __init__(
        self,
        study: str,
        run_id: str,
        spec: dict[str, Any],
        folder: Path,
        mode: str,
        digest: str = "",
    ) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        settle_names()  # W&B reads both when it is imported first
        import wandb

        self._last_step = 0
        kind = run_id.split("/")[0]
        # A measured step is no training's, and an answer's perplexity no task's accuracy: one panel
        # would take the mean of both.
        self._names = {"step": "measured"} if kind == "measure" else {}
        self._before = "instruct/" if kind == "instruct" else ""
        try:
            self._run: Any = wandb.init(
                project=os.environ["WANDB_PROJECT"],
                mode="online" if mode == "online" else "offline",
                id=wandb_id(study, run_id, digest),
                name=run_id[:LONGEST],
                group=study[:LONGEST],
                job_type=kind,
                config=config_of(spec),
                dir=folder,
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(**UNTOLD),
            )
        except Exception as error:
            raise UserError(
                f"W&B does not begin {run_id} ({_first_line(error)})",
                where=f"wandb: {mode}",
                fix="`wandb login` mends a key; or --config wandb=offline, which sends nothing",
            ) from error

    def add(self, event: dict[str, Any]) -> None:
        """One line of a history: numbers are logged at its step, evaluations under their split."""
        name = event["event"]
        prefix = self._before + event.get("split", self._names.get(name, name))
        numbers = {
            f"{prefix}/{key}": value
            for key, value in event.items()
            if isinstance(value, int | float) and key != "step"
        }
        # W&B drops what goes back in steps, and the kept epoch may be scored after later ones.
        self._last_step = max(self._last_step, event["step"])
        self._run.log({**numbers, f"{prefix}/of_step": event["step"]}, step=self._last_step)

    def go_on_after(self, step: int) -> None:
        """Steps up to `step` were told by an earlier process."""
        self._last_step = max(self._last_step, step)

    def finish(self, record: Record | SuiteRecord | None) -> None:
        """Ends the run, with what the record found."""
        if record is not None:
            self._run.summary.update(summary_of(record))
        self._run.finish(exit_code=0 if record is not None else 1)


def publish(results: Path, run_ids: list[str]) -> Path:
    """Writes every finished run of a study as an offline W&B run; gives the list of them.

    They lie under `results`/wandb; `python -m lomo wandb-sync results/<study>` sends them. A record
    that was written before is not written again. Raises UserError where W&B fails: records, tables
    and report are whole all the same.
    """
    folder = results / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    standing = {_identity(old) for old in written_whole(folder)}
    wanted, published = set(), []
    _keep(folder, standing)  # the others were cut short
    with nothing_sent(results):
        for run_id in run_ids:
            path = results / "runs" / run_id / "record.json"
            if not path.is_file():
                continue
            record = record_at(path, run_id)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            identity = wandb_id(record.study, run_id, digest)
            wanted.add(identity)
            if identity not in standing:
                _write(results, run_id, record, digest)
                _check_written(results, run_id, identity)
                standing.add(identity)
                write_text(folder / "written.json", json.dumps(sorted(standing), indent=1) + "\n")
            published.append(run_id)
    _keep(folder, wanted)  # the others are of records that are no more
    target = folder / "published.json"
    write_text(target, json.dumps(published, indent=1) + "\n")
    return target


def written_whole(folder: Path) -> list[Path]:
    """The offline runs in a folder that were written to their end, by name."""
    path = folder / "written.json"
    written = read_json(path, fix=f"delete {folder}: it is made again") if path.is_file() else []
    return [old for old in sorted(folder.glob("offline-run-*")) if _identity(old) in written]


def _keep(folder: Path, identities: set[str]) -> None:
    for old in folder.glob("offline-run-*"):
        if _identity(old) not in identities:
            shutil.rmtree(old, ignore_errors=True)


def _identity(folder: Path) -> str:
    return re.sub(r"^offline-run-\d+_\d+-", "", folder.name)


def _write(results: Path, run_id: str, record: Record | SuiteRecord, digest: str) -> None:
    path = results / "runs" / run_id / "history.jsonl"
    # A score of a suite has no steps.
    history = [] if isinstance(record, SuiteRecord) else read_lines(path)
    for number, event in enumerate(history, start=1):
        if not (isinstance(event.get("event"), str) and isinstance(event.get("step"), int)):
            raise UserError(
                f"line {number} is no event of a run (it has no `event` or no `step`)",
                where=str(path),
                fix="delete its folder and run the pipeline again: only that run is repeated",
            )
    try:
        run = WandbRun(record.study, run_id, record.spec, results, "offline", digest)
        for event in history:
            run.add(event)
        run.finish(record)
    except Exception as error:
        cause = error.what if isinstance(error, UserError) else _first_line(error)
        raise UserError(
            f"{cause}; the records are whole, and so are tables and report, which need no W&B",
            where=str(results / "wandb"),
            fix='mend it and start again, or leave W&B out: wandb: "off", or --config wandb=off',
        ) from error


def _check_written(results: Path, run_id: str, identity: str) -> None:
    """Raises UserError where W&B's file of a run is cut: on a full disk W&B itself says nothing."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(map(is_whole, (results / "wandb").glob(f"offline-run-*-{identity}"))):
        if time.monotonic() > deadline:
            raise UserError(
                f"W&B has not written {run_id} to its end",
                where=str(results / "wandb"),
                fix="make room on that disk and start again: what is finished is not repeated",
            )
        time.sleep(0.02)


@contextmanager
def nothing_sent(results: Path) -> Iterator[None]:
    """Takes from the environment what concerns sending, and gives W&B a home of its own."""
    before = {key: value for key, value in os.environ.items() if key.startswith("WANDB_")}
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
            for key in before.keys() - set(_NAMING):
                del os.environ[key]
            for kind in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
                os.environ[f"WANDB_{kind}_DIR"] = home
            os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_DIR=str(results))
            yield
    finally:
        for key in [key for key in os.environ if key.startswith("WANDB_")]:
            del os.environ[key]
        os.environ.update(before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
