"""The clock: phases exclude one another and add up."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lomo.record.clock import Clock, TimedStep, summarise


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


def test_the_clock_of_an_earlier_process_is_carried_on() -> None:
    first = Clock()
    first.loaded()
    with first.phase("train"):
        time.sleep(0.05)
    before = first.read()
    second = Clock()
    alone = second.read()
    second.carry_on(before)
    both = second.read()
    assert both.train_s == pytest.approx(before.train_s, abs=1e-9)
    assert both.load_s == pytest.approx(before.load_s + alone.load_s, abs=0.05)
    assert both.wall_s == pytest.approx(before.wall_s + alone.wall_s, abs=0.05)
    phases = both.load_s + both.compile_s + both.train_s + both.evaluate_s + both.save_s
    assert phases + both.other_s == pytest.approx(both.wall_s, abs=1e-9)


def test_the_first_steps_of_each_process_warm_up() -> None:
    slow, steady = TimedStep(10.0, 100, 100), TimedStep(1.0, 100, 200)
    steps = [slow, slow, steady, steady, slow, slow, steady]
    whole = summarise(steps, num_warmup_steps=2, world_size=1, resumed_at=[4])
    assert (whole.num_warmup_steps, whole.num_timed_steps) == (4, 3)
    assert whole.tokens_per_s_per_device == 100.0 and whole.padding_fraction == 0.5
    # Resumed twice within its warm-up: a step is dropped once.
    again = summarise(steps, num_warmup_steps=2, world_size=1, resumed_at=[4, 5])
    assert (again.num_warmup_steps, again.num_timed_steps) == (5, 2)
    with pytest.raises(ValueError, match="1 timed steps"):
        summarise(steps[:3], num_warmup_steps=2, world_size=1)
