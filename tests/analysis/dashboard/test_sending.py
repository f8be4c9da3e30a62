"""`python -m lomo wandb-sync`: each run is sent once, what did not arrive again, and no secret."""

from __future__ import annotations

import base64
import getpass
import json
import re
import shutil
import socket
from pathlib import Path

import pytest

from lomo.record.remote import sending
from lomo.record.remote.outcome import KINDS
from tests.analysis.dashboard.wandb_server import ENTITY, KEY, ROOT, Request, Server, lomo


def marks(results: Path) -> list[Path]:
    return sorted(results.glob("**/offline-run-*/sent.json"))


@pytest.mark.slow
def test_each_run_is_sent_once_to_each_place(results: Path, server: Server, tmp_path: Path) -> None:
    env = server.environment(tmp_path)
    first = lomo("wandb-sync", str(results), env=env, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    written = sorted(json.loads((results / "wandb" / "written.json").read_text()))
    outcome = json.loads((results / "dashboard" / "outcome.json").read_text())["id"]
    assert sorted(server.runs) == sorted([*written, outcome])
    (run,) = [of for name, of in server.runs.items() if "train-mini-lomo-rte" in name]
    assert (run["groupName"], run["jobType"], run["project"]) == ("made-up", "train", "lomo-repro")
    assert any("step/loss" in line for line in server.history[run["name"]])
    assert set(server.artifacts) == {f"made-up-{kind}" for kind in KINDS}
    assert server.files["/artifact/note.md"] == b"Made from x.jsonl.\n"
    assert len(marks(results)) == len(server.runs)
    made = [r.variables["input"] for r in server.requests if r.operation == "CreateArtifact"]
    assert {of["entityName"] for of in made} == {ENTITY}, "not that of nobody"

    before = server.count("UpsertBucket")
    again = lomo("wandb-sync", str(results), env=env, cwd=tmp_path)
    assert again.returncode == 0 and "0 sent, 5 sent before, 0 not" in again.stdout
    assert server.count("UpsertBucket") == before

    _nothing_of_the_machine(server, results)


def _nothing_of_the_machine(server: Server, results: Path) -> None:
    told = server.told()
    local = [base64.b64encode(f"api:{KEY}".encode()).decode(), str(ROOT), str(Path.home())]
    for secret in (KEY, *local, str(results.parents[1]), "secret-home", "my models"):
        assert secret not in told, secret
    hosts = {request.variables.get("host") for request in server.requests}
    programs = {request.variables.get("program") for request in server.requests}
    assert hosts <= {None, "-"} and programs <= {None, "lomo"}
    for name in (socket.gethostname(), getpass.getuser()):
        # As a value, of JSON in JSON too; as a part of a word it may stand in a picture.
        assert not re.search(rf"""["']{re.escape(name)}\\*["']""", told), name


def _fails(request: Request) -> bool:
    """One run's curves and the artifacts' files, which wandb takes for sent, and another run."""
    stream = request.path.endswith("/file_stream") and "zero_shot" in request.path
    begun = request.operation == "UpsertBucket" and "256x1" in request.variables["name"]
    return stream or begun or request.path.startswith("/artifact/")


@pytest.mark.slow
def test_what_did_not_arrive_is_told_and_sent_again(
    results: Path, server: Server, tmp_path: Path
) -> None:
    env = server.environment(tmp_path)
    server.refuses = lambda request: 403 if _fails(request) else 200
    first = lomo("wandb-sync", str(results), env=env, cwd=tmp_path)
    assert first.returncode == 2 and "2 sent, 0 sent before, 3 not" in first.stdout
    assert "3 runs did not arrive whole" in first.stderr
    assert "to mend: the same command" in first.stderr
    unsent = [path.parent for path in marks(results) if not json.loads(path.read_text())["at"]]
    for part in ("zero_shot", "256x1", "outcome"):
        (run,) = [run for run in unsent if part in run.name]
        assert run.name in first.stderr
        assert not list(run.glob("*.wandb.synced")), "wandb's own mark is taken away"
    server.refuses, server.requests = lambda _: 200, []
    again = lomo("wandb-sync", str(results), env=env, cwd=tmp_path)
    assert "3 sent, 2 sent before, 0 not" in again.stdout, again.stderr
    begun = {r.variables["name"] for r in server.requests if r.operation == "UpsertBucket"}
    assert len(begun) == 3, "those alone"
    assert all(json.loads(path.read_text())["at"] for path in marks(results))


@pytest.mark.slow
def test_without_a_key_nothing_is_sent(results: Path, server: Server, tmp_path: Path) -> None:
    env = server.environment(tmp_path)
    del env["WANDB_API_KEY"]
    done = lomo("wandb-sync", str(results), env=env, cwd=tmp_path)
    assert done.returncode == 2 and "wandb login" in done.stderr and not server.requests


@pytest.mark.slow
def test_a_server_that_takes_no_key_is_told(results: Path, server: Server, tmp_path: Path) -> None:
    server.refuses = lambda _: 401
    done = lomo("wandb-sync", str(results), env=server.environment(tmp_path), cwd=tmp_path)
    assert done.returncode == 2 and server.url in done.stderr and "401" in done.stderr
    assert "Traceback" not in done.stderr and not marks(results)


def test_a_mark_counts_for_its_place_alone(tmp_path: Path) -> None:
    run = tmp_path / "offline-run-20260101_000000-x"
    run.mkdir()
    assert not sending._is_sent(run, "here/a/b")
    (run / "run-x.wandb.synced").touch()
    assert sending._is_sent(run, "here/a/b"), "by somebody's `wandb sync`"
    sending._mark(run, "here/a/b", None)
    assert not sending._is_sent(run, "here/a/b"), "begun and never ended"
    sending._mark(run, "here/a/b", "2026-01-01")
    assert sending._is_sent(run, "here/a/b") and not sending._is_sent(run, "there/a/b")
    shutil.rmtree(run)
