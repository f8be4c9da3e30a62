"""Writing: whole or not at all, a full disk told with the file. Reading: one message."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from analysis.records.collected import load
from lomo.errors import UserError
from lomo.record.tracking import History
from lomo.system.command import refuse
from lomo.system.files import (
    cannot_use,
    cannot_write,
    exclusive,
    hold,
    is_held,
    read_json,
    read_lines,
    read_text,
    whole,
    write_bytes,
    write_text,
)

ROOT = Path(__file__).parents[2]
# May write by themselves: they write no file of results, or nothing that must be whole.
OWN_WRITERS = {
    "lomo/system/files.py",  # all others write by it; a lock is an empty file
    "lomo/forecast/command.py",  # a log
    "lomo/record/tracking.py",  # a history, line by line
    "lomo/engines/launch.py",  # torchrun's file of errors
    "lomo/memory/measured/counters.py",  # /proc
    "lomo/model/gguf/package.py",  # into a temporary folder
    "lomo/run/resume/checkpoints.py",  # into a folder that is renamed; full, the run goes on
    "lomo/run/resume/tensors.py",  # the same
    "analysis/page/publish.py",  # into a folder that `whole` renames
    "analysis/export/write.py",  # the same
}


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_and_a_folder_take_the_place_of_what_stood_there(tmp_path: Path) -> None:
    write_text(tmp_path / "new/file.txt", "first")
    write_bytes(tmp_path / "new/file.txt", b"second")
    assert read_text(tmp_path / "new/file.txt") == "second"
    for content in ("first", "second"):
        with whole(tmp_path / "folder") as unfinished:
            write_text(unfinished / content, content)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "file.txt",
        "folder",
        "new",
        "second",
    ]


def test_what_a_killed_process_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".model.{gone.pid}.tmp").mkdir()
    (tmp_path / f".model.{gone.pid}.tmp" / "config.json").write_text("cut")
    (tmp_path / f".model.{os.getpid()}.tmp").mkdir()  # of another with the number that is ours now
    (tmp_path / f".model.{os.getpid()}.tmp" / "old").touch()
    kept = {f".model.{os.getppid()}.tmp", f".other.{gone.pid}.tmp", ".model.x.tmp"}
    for name in kept:
        (tmp_path / name).touch()
    with whole(tmp_path / "model") as unfinished:
        assert not unfinished.exists()
        write_text(unfinished / "config.json", "{}")
    assert {path.name for path in tmp_path.iterdir()} == {"model", *kept}
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: '
                     '"No space left on device" })'),
        Exception("No space left on device (os error 28)"),
    ],
)  # fmt: skip
def test_a_full_disk_is_told_with_the_file_and_leaves_nothing(
    tmp_path: Path, error: Exception
) -> None:
    path = tmp_path / "results" / "record.json"
    write_text(path, "what stood there")
    with pytest.raises(UserError) as refused, whole(path) as temporary:
        temporary.write_text("half of")
        raise error
    assert str(path) in str(refused.value) and "make room on that disk" in str(refused.value)
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]
    assert path.read_text() == "what stood there"


def test_another_error_is_passed_on_and_leaves_nothing_either(tmp_path: Path) -> None:
    for error in (KeyError("a bug"), KeyboardInterrupt(), MemoryError(), BrokenPipeError()):
        with pytest.raises(type(error)), whole(tmp_path / "x") as temporary:
            temporary.mkdir()
            (temporary / "part").touch()
            raise error
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/below: cannot be written \(File exists"):
        write_text(tmp_path / "file" / "below", "x")
    with pytest.raises(UserError, match="File name too long"):
        write_text(tmp_path / ("x" * 300), "x")
    told = cannot_write(tmp_path, OSError(errno.EFBIG, "File too large"))
    assert "ulimit -f" in str(told) and "folder writable" not in str(told)


def test_a_history_on_a_full_disk_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    history = History("study", "train/x", {}, tmp_path)
    with pytest.raises(UserError, match=r"history\.jsonl: cannot be written \(No space left"):
        history.add("step", step=1)
    history.close(None)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_on_a_disk_that_keeps_no_locks_work_goes_on_and_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with exclusive(tmp_path / "run" / ".lock") as waited_s:
        assert waited_s == 0.0
    assert capsys.readouterr() == ("", "")  # once a start is enough
    with hold(tmp_path / ".lock"):
        assert not is_held(tmp_path / ".lock")
    assert f"{tmp_path}: this disk keeps no locks" in capsys.readouterr().err


def test_a_write_that_nobody_looks_after_is_told_too() -> None:
    told = cannot_use(OSError(errno.ENOSPC, "No space left on device", "some/file"))
    assert told is not None and "some/file: cannot be used (No space left" in str(told)
    assert cannot_use(OSError(errno.EPIPE, "Broken pipe")) is None


def lomo(*arguments: str, **streams: int) -> subprocess.CompletedProcess[str]:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(
        [sys.executable, "-m", "lomo", *arguments], cwd=ROOT, text=True, timeout=60, **given
    )  # type: ignore[call-overload,no-any-return]


def test_where_the_log_is_full_the_message_is_on_the_console() -> None:
    log = os.open("/dev/full", os.O_WRONLY)
    done = lomo("runs", "no-such-study.yaml", stderr=log)
    os.close(log)
    assert done.returncode == 2 and done.stdout.startswith("error: no-such-study.yaml")


def test_what_is_written_to_a_full_log_at_the_very_end_fails_no_more() -> None:
    """Python flushes stderr when it ends, and gives 120 in place of the exit code if that fails."""
    program = """
import sys
from lomo.errors import UserError
from lomo.system.command import refuse

code = refuse(UserError("is missing", where="that"))
print("a warning of some library", file=sys.stderr, flush=True)
sys.exit(code)
"""
    with Path("/dev/full").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "error: that: is missing\n")


def test_where_the_output_is_full_the_message_is_in_the_log() -> None:
    output = os.open("/dev/full", os.O_WRONLY)
    done = lomo("runs", "config/tiny.yaml", stdout=output)
    os.close(output)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: output: cannot be used (No space left on device)")
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_refuse_survives_when_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.print", full)
    assert refuse(UserError("what", where="where")) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "is not UTF-8 text"),
        (b'{"a": 1', "not a whole JSON file"),
        (b"[" * 200_000, "nested too deeply"),
        (b"9" * 10_000, "not a usable JSON file"),
        (None, "cannot be read (No such file"),
    ],
)
def test_a_broken_json_file_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_json(path, fix="delete it")
    assert message in str(refused.value) and str(path) in str(refused.value)
    assert "delete it" in str(refused.value)


def test_lines_are_read_or_told_by_their_number(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert read_lines(path) == [{"a": 1}, {"a": 2}]
    for second in ('{"a"', "[1]", "[" * 200_000):
        path.write_text(f'{{"a": 1}}\n{second}\n')
        with pytest.raises(UserError, match="line 2 is not"):
            read_lines(path)
    path.write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        read_lines(path)


@pytest.mark.parametrize("content", [b"\xff", b"", b"PAR1 cut", None])
def test_a_collected_table_that_is_broken_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tables" / "records.parquet"
    path.parent.mkdir()
    if content is None:
        pd.DataFrame({"another": [1]}).to_parquet(path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="is no collected table, or was cut"):
        load(tmp_path)


def test_every_file_of_results_is_written_in_one_place() -> None:
    """Whoever adds a writer of their own answers for a full disk."""
    found = set()
    for path in (file for folder in ("lomo", "analysis") for file in (ROOT / folder).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if any(writes(call) for call in calls(path)):
            found.add(name)
    assert found <= OWN_WRITERS, found - OWN_WRITERS


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield node


def writes(call: ast.Call) -> bool:
    """Whether a call opens or makes a file by itself; `whole` gives `temporary`, `unfinished`."""
    name = getattr(call.func, "attr", None) or getattr(call.func, "id", "")
    receiver = getattr(getattr(call.func, "value", None), "id", "")
    if receiver in ("temporary", "unfinished"):
        return False
    if name == "open":
        modes = [part.value for part in call.args if isinstance(part, ast.Constant)]
        return any(isinstance(mode, str) and set(mode) & set("wax") for mode in modes)
    if name in ("write_text", "write_bytes"):
        return isinstance(call.func, ast.Attribute) and receiver != "miniature"
    return name in ("rename", "copyfile", "mkstemp", "NamedTemporaryFile")
