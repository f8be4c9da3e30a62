"""Work in forked processes."""

from __future__ import annotations

import os

import pytest

from lomo.system.processes import results


def test_every_number_is_worked_on_once() -> None:
    found = dict(results(lambda number: (number * number, os.getpid()), 40, 3))
    assert {number: square for number, (square, _) in found.items()} == {
        number: number * number for number in range(40)
    }
    assert os.getpid() not in {pid for _, pid in found.values()}


def test_large_results_arrive_whole() -> None:
    found = dict(results(lambda number: "x" * 300_000 + str(number), 4, 2))
    assert sorted(text[300_000:] for text in found.values()) == ["0", "1", "2", "3"]


def test_nothing_to_do() -> None:
    assert list(results(lambda number: number, 0, 2)) == []


def test_a_process_that_fails_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(number: int) -> int:
        raise ArithmeticError(f"number {number}")

    with pytest.raises(RuntimeError, match="2 processes failed"):
        list(results(fail, 2, 2))
    assert "ArithmeticError: number 0" in capfd.readouterr().err


def test_one_process_is_this_one() -> None:
    assert dict(results(lambda number: os.getpid(), 2, 1)) == {0: os.getpid(), 1: os.getpid()}
