"""What the system did not give is told in one message, and a bug stays a bug."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from lomo.errors import UserError
from lomo.system.command import ended
from lomo.system.shortage import check_limits, shortage


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "there is no more memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "ulimit -v"),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "ulimit -u"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (ImportError("lib.so: failed to map segment from shared object"), "ulimit -v"),
    ],
)
def test_a_shortage_is_the_users_to_mend(
    error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    assert ended(command) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: this process: stopped short") and told in said
    assert "what is finished is not repeated" in said


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shapes do not match"),
        ImportError("No module named x"),
        BlockingIOError(errno.EAGAIN, "write could not complete without blocking"),
        OSError(errno.EPIPE, "Broken pipe"),
        KeyError("too many open files"),
    ],
)
def test_another_error_is_passed_on(error: Exception) -> None:
    assert shortage(error) is None


@pytest.mark.parametrize(
    ("limit", "soft"), [(resource.RLIMIT_AS, 800_000_000), (resource.RLIMIT_NOFILE, 12)]
)
def test_a_limit_under_which_nothing_runs_is_told(
    monkeypatch: pytest.MonkeyPatch, limit: int, soft: int
) -> None:
    check_limits()
    real = resource.getrlimit
    monkeypatch.setattr(
        resource, "getrlimit", lambda which: (soft, soft) if which == limit else real(which)
    )
    with pytest.raises(UserError, match=f"a limit of {soft:,} is too low"):
        check_limits()


@pytest.mark.parametrize(("user", "is_told"), [(1000, True), (0, False)])
def test_few_processes_are_told_of_to_whom_they_are_counted(
    user: int, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {resource.RLIMIT_NPROC: (8, 8)}
    none = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda limit: few.get(limit, none))
    monkeypatch.setattr("os.geteuid", lambda: user)
    if not is_told:
        return check_limits()
    with pytest.raises(UserError, match="a limit of 8 is too low, 16 is the least"):
        check_limits()
    return None
