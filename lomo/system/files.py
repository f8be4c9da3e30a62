"""Files written whole or not at all, read with one message where they are broken, and locked: one
writer a folder, also after a kill, since the kernel drops the lock of a process that has died.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lomo.errors import UserError

# What a place can't take, whatever is written. Memory, pipes and bugs are not among them.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EFBIG, errno.ENAMETOOLONG),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY),
)
# What a disk says that keeps no locks: some mounts of NFS and Lustre, and shared folders.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# How Rust's libraries (safetensors, tokenizers) pass it on, which know no OSError.
_NO_SPACE = ("no space left on device", "os { code: 28,", "(os error 28)")


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write a file or a folder under; renamed to `path` after.

    Where the block fails, nothing is left; what a killed process has left is removed. Raises
    UserError where the disk is full or the place is not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in _left_behind(path):
            _remove(left)
        yield temporary
        if temporary.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    except BaseException as error:
        _remove(temporary)
        told = cannot_write(path, error)
        if told is None:
            raise
        raise told from error


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path` whole or not at all. Raises UserError where that can't be."""
    write_bytes(path, text.encode())


def write_json_lines(path: Path, objects: Iterable[Any]) -> None:
    """Writes one JSON object a line, whole or not at all. Raises UserError where that can't be."""
    write_text(path, "".join(json.dumps(one) + "\n" for one in objects))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` whole or not at all. Raises UserError where that can't be."""
    with whole(path) as temporary:
        temporary.write_bytes(data)


def cannot_write(path: Path, error: BaseException) -> UserError | None:
    """What to tell where writing `path` met a full disk or a closed door; None for other errors."""
    code = error.errno if isinstance(error, OSError) else None
    message = str(error).lower()
    if code in _FULL or (code is None and any(sign in message for sign in _NO_SPACE)):
        return UserError(
            f"cannot be written ({os.strerror(code or errno.ENOSPC)})",
            where=str(path),
            fix="make room on that disk and start again: what is finished is not repeated",
        )
    if code in _NOT_WRITABLE:
        fix = "make its folder writable, or work elsewhere: snakemake -s .../Snakefile -d FOLDER"
        if code == errno.EFBIG:
            fix = "raise the limit of the size of files: ulimit -f unlimited"
        return UserError(
            f"cannot be written ({os.strerror(code or errno.EACCES)})", where=str(path), fix=fix
        )
    return None


def cannot_use(error: OSError) -> UserError | None:
    """What to tell of a full disk or a closed door that nobody expected; None for other errors."""
    if error.errno not in (*_FULL, *_NOT_WRITABLE):
        return None
    fix = "make room on its disk and start again" if error.errno in _FULL else None
    place = error.filename if error.filename is not None else "output"
    return UserError(f"cannot be used ({error.strerror})", where=str(place), fix=fix)


def read_text(path: Path, *, fix: str | None = None) -> str:
    """The text of a file. Raises UserError, with `fix`, where it is not there or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(_unreadable(error), where=str(path), fix=fix) from error


def read_json(path: Path, *, fix: str | None = None) -> Any:
    """What a JSON file holds. Raises UserError, with `fix`, for one that is missing or cut."""
    text = read_text(path, fix=fix)
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(f"{error}; it was cut or edited", where=str(path), fix=fix) from error


def parse_json(text: str) -> Any:
    """What JSON text says. Raises ValueError, in one line, whatever is wrong with it."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not a whole JSON file (line {error.lineno})") from error
    except RecursionError as error:
        raise ValueError("not a usable JSON file: nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"not a usable JSON file: {str(error).split(';')[0]}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, [] if there is none. Raises UserError for a broken line."""
    fix = "delete its folder and run the pipeline again: only that run is repeated"
    if not path.is_file():
        return []
    events = []
    for number, line in enumerate(read_text(path, fix=fix).splitlines(), start=1):
        try:
            event = parse_json(line)
        except ValueError as error:
            raise UserError(
                f"line {number} is not JSON; the file was cut or edited", where=str(path), fix=fix
            ) from error
        if not isinstance(event, dict):
            raise UserError(f"line {number} is not a JSON object", where=str(path), fix=fix)
        events.append(event)
    return events


def _unreadable(error: OSError | ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _left_behind(path: Path) -> Iterator[Path]:
    """Temporaries of `path` whose process is no more, or has now our number."""
    start = f".{path.name}."
    with suppress(OSError):
        for found in list(path.parent.iterdir()):
            number = found.name.removeprefix(start).removesuffix(".tmp")
            if found.name == f"{start}{number}.tmp" and number.isdecimal():
                process = int(number)
                if process == os.getpid() or not _is_alive(process):
                    yield found


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


_ASKING_S = (0.01, 0.05)


@contextmanager
def exclusive(path: Path) -> Iterator[float]:
    """Holds the lock file `path`; gives the seconds that another process was waited for, or 0.

    A pipeline that was killed leaves its running jobs behind. The same job, started again, waits
    here for the old one, and finds its work done.
    """
    with _opened(path) as file:
        waited_s = 0.0
        if not _try(file):
            print(f"waiting for another process that works on {path.parent}", flush=True)
            started = time.perf_counter()
            _flock(file, fcntl.LOCK_EX)
            waited_s = time.perf_counter() - started
        yield waited_s


def hold(path: Path) -> IO[str]:
    """Holds the lock file `path` until the process ends. A disk that keeps no locks is told of.

    Raises UserError if another process holds it, or where it can't be made.
    """
    file = _opened(path)
    if not _try(file):
        file.close()
        raise UserError(
            "another snakemake is working on this study",
            where=str(path.parent),
            fix="wait for it, or stop it; a lock never outlives its process",
        )
    if why := _why_no_locks(file):
        print(
            f"{path.parent}: this disk keeps no locks ({why}), and nothing holds back a second "
            "snakemake: start one at a time",
            file=sys.stderr,
            flush=True,
        )
    return file


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file `path`. Nothing is made, and nobody is kept waiting."""
    try:
        file = path.open()
    except OSError:
        return False
    with file:
        try:
            _flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _flock(file: IO[str], how: int) -> None:
    """As fcntl.flock; on a disk that keeps no locks nothing is held, and nobody is kept out."""
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _why_no_locks(file: IO[str]) -> str | None:
    """What the disk says that keeps no locks; None where it does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.strerror if error.errno in _NO_LOCKS else None
    return None


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w")
    except OSError as error:
        raise (cannot_write(path, error) or error) from None


def _try(file: IO[str]) -> bool:
    """Takes the lock, or gives up; somebody who only asks (`is_held`) has it for a moment."""
    for pause_s in (*_ASKING_S, None):
        try:
            _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause_s is None:
                return False
            time.sleep(pause_s)
        else:
            break
    return True
