"""Where a study is to be written, looked at before Snakemake falls over it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from lomo.errors import UserError
from lomo.system.files import cannot_write


def check_place(study: str, *, writes: bool) -> None:
    """Raises UserError for what is no folder on the way to a study's results, links followed.

    writes: also for results, and folders of Snakemake's own, that take no new file.
    """
    results = Path("results", study)
    kept = Path(".snakemake")
    own = [entry for entry in kept.iterdir() if entry.is_dir()] if _is_readable(kept) else []
    for folder in (results, results / "logs", kept, *own):
        there = _deepest(folder)
        if writes and not os.access(there, os.W_OK | os.X_OK):
            error = _refusal(there)
            raise cannot_write(folder, error) or error


def _is_readable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)


def _deepest(folder: Path) -> Path:
    """The last folder on the way to `folder` that is there. Raises UserError for what is none."""
    there = Path()
    for step in (*reversed(folder.parents[:-1]), folder):
        if not os.path.lexists(step):
            break
        if not step.is_dir():
            link = f"a link to {step.readlink()}, which" if step.is_symlink() else "there, and"
            raise UserError(
                f"is {link} is no folder",
                where=str(step),
                fix="make that folder, or move it out of the way: results are written below it",
            )
        there = step
    return there


def _refusal(folder: Path) -> OSError:
    """Why nothing can be written there."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        return error
