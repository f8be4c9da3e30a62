"""The clock: phases exclude one another and add up."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lomo.record.clock import Clock


def test_phases_and_rest_are_the_wall_time() -> None:
    clock = Clock()
    clock.loaded()
    with clock.phase("train"):
        time.sleep(0.05)
        with clock.phase("evaluate"):
            time.sleep(0.1)
    time.sleep(0.02)
    read = clock.read()
    phases = read.load_s + read.compile_s + read.train_s + read.evaluate_s + read.save_s
    assert phases + read.other_s == pytest.approx(read.wall_s, abs=1e-9)
    assert read.evaluate_s >= 0.1
    assert 0.05 <= read.train_s < read.evaluate_s
    assert read.other_s >= 0.02


def test_load_begins_with_the_process() -> None:
    clock = Clock()
    assert clock.seconds("load") == pytest.approx(clock.wall_s, abs=0.05)
    assert clock.wall_s > 0.05, "importing this took longer"


def test_a_phase_ends_with_an_error() -> None:
    clock = Clock()
    clock.loaded()
    with pytest.raises(ValueError), clock.phase("train"):
        raise ValueError
    before = clock.read().train_s
    time.sleep(0.02)
    assert clock.read().train_s == before


def test_a_process_is_as_old_as_its_parents_stopwatch_says() -> None:
    code = "from lomo.record.clock import Clock; print(Clock().wall_s)"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    elapsed = time.perf_counter() - started
    assert 0.02 < float(done.stdout) < elapsed + 0.02


def test_waiting_for_another_process_is_no_time_of_the_run() -> None:
    assert Clock().wall_s - Clock(waited_s=5.0).wall_s == pytest.approx(5.0, abs=0.05)
