"""The warm process: the same command, the same output and exit code, in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lomo.pipeline import warm

ROOT = Path(__file__).parents[2]
IMPORTS = "from lomo import cli; from lomo.pipeline import warm; warm._PRELOADED = ()"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    """A warm process that imports nothing heavy, with its socket."""
    path = tmp_path / "s"
    code = f"{IMPORTS}; warm.serve(warm.Path({str(path)!r}), cli.main)"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)
    yield path
    process.terminate()
    process.wait(timeout=10)


def command(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lomo", *arguments],
        cwd=ROOT,
        env={**os.environ, "LOMO_WARM": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_users_mistake_comes_back_with_its_message_and_exit_code(served: Path) -> None:
    done = command(served, "train", "--spec", '{"kind": "dream"}', "--out", "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "is no run's spec" in done.stderr


def test_usage_errors_come_back_too(served: Path) -> None:
    done = command(served, "train", "--what")
    assert done.returncode == 2 and "usage" in done.stderr


def test_other_commands_run_by_themselves(served: Path) -> None:
    done = command(served, "runs", "config/h200.yaml")
    assert done.returncode == 0 and "runs in all" in done.stdout


def test_without_a_warm_process_a_command_runs_by_itself(tmp_path: Path) -> None:
    done = command(tmp_path / "nobody", "train", "--spec", '{"kind": "dream"}', "--out", "x")
    assert done.returncode == 2 and "is no run's spec" in done.stderr


def test_several_commands_at_once(served: Path) -> None:
    arguments = [sys.executable, "-m", "lomo", "measure", "--spec", "{}", "--out", "x"]
    env = {**os.environ, "LOMO_WARM": str(served)}
    running = [
        subprocess.Popen(arguments, cwd=ROOT, env=env, stderr=subprocess.DEVNULL) for _ in range(4)
    ]
    assert [process.wait(timeout=60) for process in running] == [2, 2, 2, 2]


@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    path = tmp_path / "s"
    code = (
        "import sys, time; from pathlib import Path; from lomo.pipeline import warm;"
        f"p = warm.start(Path({str(path)!r}), 1); print(p.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    deadline = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "the warm process outlived its parent"
        time.sleep(0.05)


def test_nothing_to_hand_over_where_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOMO_WARM", raising=False)
    assert warm.hand_over(["train"]) is None


def test_clients_that_say_nothing_or_half_hold_nobody_up(served: Path) -> None:
    """They are still there when others, who came later, have been served."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
        for client, said in zip(clients, (b"", b'{"arguments": ', b"no request\n"), strict=True):
            client.connect(str(served))
            client.send(said)
        done = command(served, "train", "--spec", "{}", "--out", "x")
        assert done.returncode == 2 and "is no run's spec" in done.stderr
        for client in clients[:2]:
            with pytest.raises(BlockingIOError):
                client.recv(1, socket.MSG_DONTWAIT)
        assert clients[2].recv(1) == b"", "without outputs it is no request"


def test_a_request_is_heard_in_parts(served: Path) -> None:
    request = json.dumps({"arguments": ["train", "--what"], "folder": str(ROOT)}).encode()
    with socket.socket(socket.AF_UNIX) as client, Path(os.devnull).open("w") as nowhere:
        client.connect(str(served))
        socket.send_fds(client, [request[:20]], [nowhere.fileno(), nowhere.fileno()])
        time.sleep(0.1)
        client.sendall(request[20:] + b"\n")
        assert client.recv(16) == b"2"


def test_a_study_may_have_a_long_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The address of a socket holds 107 bytes, a study's folder has more."""
    path = tmp_path / ("a-name-" * 25) / ".warm"
    path.parent.mkdir()
    code = f"{IMPORTS}; warm.serve(warm.Path({str(path)!r}), cli.main)"
    server = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not path.exists():
        assert server.poll() is None
        time.sleep(0.02)
    monkeypatch.setenv("LOMO_WARM", str(path))
    code_found = warm.hand_over(["train", "--what"])
    server.kill()
    server.wait()
    assert code_found == 2 and "usage" in capfd.readouterr().err


def test_where_no_socket_can_be_made_runs_import_anew(tmp_path: Path) -> None:
    code = f"{IMPORTS}; warm.serve(warm.Path({str(tmp_path)!r}), cli.main)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "no warm process" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_twice_ends_in_order() -> None:
    code = (
        "import os, signal; from lomo.system.interrupts import end_once; end_once()\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n    os.kill(os.getpid(), signal.SIGINT); print('in order')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "in order\n", "")


def test_a_command_that_is_interrupted_says_nothing() -> None:
    code = (
        "import sys, runpy; sys.argv = ['lomo', 'runs', 'x']; import lomo.pipeline.warm\n"
        "def stop(_): raise KeyboardInterrupt\n"
        "lomo.pipeline.warm.hand_over = stop; runpy.run_module('lomo', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("victim", ["run", "warm process", "asked to end"])
def test_a_death_is_told(tmp_path: Path, victim: str) -> None:
    """A killed run says by what; a killed warm process leaves the command to run by itself.

    One that is asked to end, as when Snakemake is killed, ends its runs: a command that went on by
    itself would be at work beside the next start.
    """
    path, started = tmp_path / "s", tmp_path / "started"
    code = (
        "import os, time; from pathlib import Path; from lomo.pipeline import warm;"
        "warm._PRELOADED = ();"
        f"main = lambda _: (Path({str(started)!r}).write_text(str(os.getpid())),"
        " time.sleep(30))[1];"
        f"warm.serve(Path({str(path)!r}), main)"
    )
    server = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while not path.exists():
        time.sleep(0.02)
    client = subprocess.Popen(
        [sys.executable, "-m", "lomo", "train", "--spec", "{}", "--out", "x"],
        cwd=ROOT,
        env={**os.environ, "LOMO_WARM": str(path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (started.exists() and started.read_text()):
        time.sleep(0.02)
    run = int(started.read_text())
    if victim == "asked to end":
        server.terminate()
    else:
        os.kill(run if victim == "run" else server.pid, signal.SIGKILL)
    client.wait(timeout=60)
    if victim == "warm process":
        os.kill(run, signal.SIGKILL)  # it lives on, and holds the client's output open
    _, message = client.communicate(timeout=60)
    if victim == "run":
        assert client.returncode == 128 + 9 and "killed by signal 9" in message
    elif victim == "asked to end":
        assert client.returncode == 128 + 15 and "killed by signal 15" in message
    else:
        assert "the warm process has died" in message and client.returncode == 2
    server.kill()
    server.wait()
