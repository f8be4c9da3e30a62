"""The clock: phases exclude one another and add up."""

from __future__ import annotations

import time

import pytest

from lomo.clock import Clock


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
