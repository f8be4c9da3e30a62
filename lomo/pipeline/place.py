"""Where a study is to be written, looked at before Snakemake falls over it."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from lomo.errors import UserError
from lomo.system.files import cannot_write

_TEMPORARY_BYTES = 2**20
_LEAST_BYTES = 2**16  # a disk with less room is called full


def check_place(study: str, *, writes: bool) -> None:
    """Raises UserError for what is no folder on the way to a study's results, links followed.

    writes: also for results, and folders of Snakemake's own, that take no new file.
    """
    results = Path("results", study)
    kept = Path(".snakemake")
    own = [entry for entry in kept.iterdir() if entry.is_dir()] if _is_readable(kept) else []
    for folder in (results, results / "logs", kept, *own):
        there = _deepest(folder)
        if writes:
            _check_takes(there, folder)


def check_products(files: Iterable[str]) -> None:
    """Raises UserError for a folder in which these files are to be made, and that takes none."""
    for folder in sorted({Path(file).parent for file in files}):
        _check_takes(_deepest(folder), folder)


def check_temporary_files() -> None:
    """Raises UserError where they have no room: what chooses Snakemake's next jobs writes some."""
    folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TEMPORARY_BYTES))
    except OSError as error:
        raise UserError(
            f"takes no temporary files ({error.strerror})",
            where=str(folder),
            fix="make room there, or export TMPDIR=FOLDER, one with room",
        ) from error


def full_disk(study: str) -> UserError | None:
    """What to tell where the disk of a study's results is full; None where it has room.

    A job that met it may have said so in a log on that disk, which is empty then.
    """
    folder = Path("results", study)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_LEAST_BYTES))
    except OSError as error:
        return cannot_write(folder, error)
    return None


def settle_times(study: str) -> str | None:
    """Files of a study from a time to come get times of just now, in their order; says so.

    A clock that was set back leaves them, and Snakemake refuses what is made of them.
    """
    now_ns = time.time_ns()
    to_come = []
    for folder, _, names in os.walk(Path("results", study)):
        for path in (Path(folder, name) for name in names):
            with suppress(OSError):
                made_ns = path.stat().st_mtime_ns
                if made_ns > now_ns:
                    to_come.append((made_ns, path))
    for place, (_, path) in enumerate(sorted(to_come)):
        at_ns = now_ns - (len(to_come) - place) * 1000
        with suppress(OSError):
            os.utime(path, ns=(at_ns, at_ns))
    if not to_come:
        return None
    files = f"{len(to_come)} files in results/{study} are"
    return f"{files} of a time to come, as if the clock was set back: their times are now"


def _check_takes(there: Path, folder: Path) -> None:
    if not os.access(there, os.W_OK | os.X_OK):
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
