"""What `doctor` says of a machine, and of one that lacks something."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lomo.cli import main
from lomo.pipeline import doctor
from lomo.study.machine import Machine
from lomo.study.native_dtype import Products


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody outside is asked, and nothing is made in the checkout."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def test_all_is_looked_at_and_this_machine_runs_the_default_study(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in found if one["state"] == "bad"] == []
    assert len(found) == len(doctor.LOOKS)
    # What is not in order says what to do.
    assert all(one["fix"] for one in found if one["state"] != "ok")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("the default study runs here\n")
    assert "HF_HUB_OFFLINE=1 is set" in out


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    assert doctor.locks().state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_takes_no_cache_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    assert doctor.caches().state == "ok"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/proc/nobody")  # where nothing can be made, by root either
    monkeypatch.setattr(os, "access", lambda at, how: at != Path("/proc"))
    finding = doctor.caches()
    assert finding.state == "bad" and "XDG_CACHE_HOME" in str(finding.fix)


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 2))
    assert doctor.python().state == "bad"


def test_a_package_that_is_missing_or_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = importlib.metadata.version

    def other(name: str) -> str:
        return "0.0.1" if name == "pandas" else installed(name)

    monkeypatch.setattr(importlib.metadata, "version", other)
    assert "pandas 0.0.1, tested with" in doctor.packages().what

    def none(name: str) -> str:
        if name == "pandas":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", none)
    finding = doctor.packages()
    assert (finding.state, finding.what) == ("bad", "not installed: pandas")


def test_a_full_disk_ends_with_exit_code_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10, 9, 1))
    assert main(["doctor"]) == doctor.NO == 3
    out = capsys.readouterr().out
    assert "BAD  disk" in out and "1 GiB is needed" in out
    assert out.endswith("1 to mend before the default study runs here\n")


def test_a_card_that_torch_does_not_see_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Machine(
        kind="cuda",
        name="NVIDIA H200",
        num_devices=2,
        device_bytes=140 * 2**30,
        host_bytes=2**35,
        origin="found",
    )
    monkeypatch.setattr("lomo.study.machine.find_machine", lambda _: card)
    monkeypatch.setattr(doctor, "_torch_sees_a_card", lambda: False)
    finding = doctor.cards()
    assert finding.state == "bad"
    assert "2 x NVIDIA H200, 140.0 GiB" in finding.what and "CUDA build" in str(finding.fix)


@pytest.mark.parametrize(("rate", "state"), [(1e10, "note"), (2e12, "ok")])
def test_slow_bfloat16_is_told(monkeypatch: pytest.MonkeyPatch, rate: float, state: str) -> None:
    made_up = Products(flops_per_s={"float32": 1e12, "bfloat16": rate}, num_threads=1)
    monkeypatch.setattr("lomo.study.native_dtype.time_products", lambda *_: made_up)
    finding = doctor.precision()
    assert finding.state == state
    assert state == "ok" or "100 times slower" in finding.what


def test_a_library_that_cannot_be_imported_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ImportError("libcudnn.so.9: cannot open shared object file")

    monkeypatch.setattr(doctor, "LOOKS", (broken,))
    (finding,) = doctor.examine()
    assert finding.state == "bad" and "libcudnn" in finding.what and finding.fix
