"""Sends what W&B has not got of a study: its offline runs and its artifacts, each once.

`wandb sync` does the sending, and leaves a mark of its own. That mark can't be relied on: wandb
0.31 leaves it where the server took nothing of a run, and ends with exit code 0. So its log is
read, and the mark that counts is ours, `sent.json` beside the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from lomo.errors import UserError
from lomo.record.made import read
from lomo.record.remote.naming import settle_names
from lomo.record.remote.outcome import write_outcome
from lomo.record.tracking import written_whole
from lomo.study.plan import Plan
from lomo.system.command import waiting
from lomo.system.files import exclusive, write_text

# The arguments of one `wandb sync`: so many paths fit a command line.
_AT_ONCE = 500
# Of the environment of `wandb sync`: they would say of the runs what is not so, or who sends them.
# WANDB_SERVICE is this process's own helper, which opens files from this process's folder.
_LEFT_OUT = (
    "WANDB_SERVICE",
    *("WANDB_MODE", "WANDB_DISABLED", "WANDB_SILENT", "WANDB_QUIET", "WANDB_HOST"),
    *("WANDB_RUN_ID", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_NOTES", "WANDB_TAGS"),
    *("WANDB_JOB_TYPE", "WANDB_PROJECT", "WANDB_USERNAME", "WANDB_USER_EMAIL"),
)
# wandb's own patience with a server that fails is hours.
_PATIENCE = {
    f"WANDB__{what}_RETRY_MAX": "4" for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
}


class Account(NamedTuple):
    """Where things are sent: the server, and whose project of what name."""

    host: str
    entity: str
    project: str

    @property
    def place(self) -> str:
        """For people, and for the marks."""
        return f"{self.host}/{self.entity}/{self.project}"


class Sent(NamedTuple):
    """How many runs went out, and were there before; and why others did not, by their folder."""

    now: int
    before: int
    failed: dict[str, str]


def account() -> Account | None:
    """The account whose key W&B finds (WANDB_API_KEY, netrc, its settings); None without a key.

    WANDB_BASE_URL, WANDB_ENTITY and WANDB_PROJECT are honoured. Asks the server whether it takes
    the key. Raises UserError where it does not, or does not answer.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ["WANDB_SILENT"] = "true"
    settle_names()
    import wandb
    from wandb.sdk.lib import wbauth

    host = "W&B"
    try:
        host = str(wandb.setup().settings.base_url)
        if wbauth.authenticate_session(host=host, source="lomo", prompt=False) is None:
            return None
        entity = os.environ.get("WANDB_ENTITY") or wandb.Api(timeout=20).default_entity
    except Exception as error:  # wandb's own kinds, and pydantic's of a broken setting
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"takes no call of ours ({lines[0]})",
            where=host,
            fix="`wandb login` for the key; WANDB_BASE_URL for the server",
        ) from error
    if not entity:
        raise UserError("names no default entity", where=host, fix="WANDB_ENTITY=NAME")
    return Account(host.rstrip("/"), str(entity), os.environ["WANDB_PROJECT"])


def send(results: Path, plan: Plan, to: Account) -> Sent:
    """Sends each offline run of a study, and its artifacts, that `to` has not got from here."""
    with exclusive(results / "dashboard" / ".sending.lock"):
        outcome = write_outcome(results, plan, to.entity, to.project)
        runs = [*written_whole(results / "wandb"), *([outcome] if outcome else [])]
        missing = unsent(results, to)
        if outcome and not _is_sent(outcome, to.place):
            missing.append(outcome)
        failed: dict[str, str] = {}
        for start in range(0, len(missing), _AT_ONCE):
            failed |= _send(results, missing[start : start + _AT_ONCE], to)
    return Sent(len(missing) - len(failed), len(runs) - len(missing), failed)


def unsent(results: Path, to: Account) -> list[Path]:
    """The offline runs of a study that `to` has not got from here."""
    return [run for run in written_whole(results / "wandb") if not _is_sent(run, to.place)]


def _is_sent(run: Path, place: str) -> bool:
    """Whether a run was sent to `place`, by us or, where we never tried, by `wandb sync`."""
    if not (run / "sent.json").is_file():
        return any(run.glob("*.wandb.synced"))
    told = read(run / "sent.json")
    return bool(told.get("at")) and told.get("to") == place


def _mark(run: Path, place: str, at: str | None) -> None:
    """Beside a run, where it was sent to, and when; without a time it may not have arrived."""
    write_text(run / "sent.json", json.dumps({"to": place, "at": at}) + "\n")


def _send(results: Path, runs: Sequence[Path], to: Account) -> dict[str, str]:
    """Sends runs; gives those that failed, by the name of their folder, each with the reason."""
    for run in runs:
        _mark(run, to.place, None)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        paths = [run.relative_to(results).as_posix() for run in runs]
        command = [sys.executable, "-m", "wandb", "sync", "--include-synced", "--yes"]
        command += ["--entity", to.entity, "--project", to.project, *paths]
        # From the study's folder: W&B is told the path of each file of an artifact.
        with waiting(f"sending {len(runs)} runs to {to.place}"):
            done = subprocess.run(
                command, cwd=results, env=_environment(home, to), capture_output=True, text=True
            )
        reasons = _reasons(Path(home))
    failed = {}
    for run in runs:
        reason = reasons.get(run.name)
        if not any(run.glob("*.wandb.synced")):
            reason = reason or _last_words(done)
        if reason is None:
            _mark(run, to.place, datetime.now(UTC).isoformat(timespec="seconds"))
        else:
            failed[run.name] = reason
            for mark in run.glob("*.wandb.synced"):  # which wandb leaves all the same
                mark.unlink()
    return failed


def _environment(home: str, to: Account) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key not in _LEFT_OUT}
    places = {f"WANDB_{kind}DIR": home for kind in ("", "CACHE_", "DATA_", "ARTIFACT_")}
    names = {"WANDB_ENTITY": to.entity, "WANDB_PROGRAM": "lomo"}
    return {**_PATIENCE, **kept, **places, **names}


def _reasons(home: Path) -> dict[str, str]:
    """What the log of `wandb sync` tells of failed runs: folder of a run -> its first error."""
    found: dict[str, str] = {}
    for log in sorted(home.rglob("debug-sync.*.log")):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                told = json.loads(line)
                level, message, path = str(told["level"]), str(told["msg"]), told["sync_path"]
            except (ValueError, KeyError, TypeError):
                continue
            # An answer that is no yes is followed by what it meant, if it meant anything.
            if level.startswith("ERROR") and message != "api: HTTP error":
                error = str(told.get("error", "")).splitlines()
                text = f"{message} {error[0]}" if error else message.splitlines()[0]
                found.setdefault(Path(path).parent.name, text[:300])
    return found


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return f"wandb sync ended (exit code {done.returncode}): {lines[-1] if lines else 'silently'}"
