from __future__ import annotations

import pytest
from scipy import stats

from analysis.statistics.intervals import (
    exact_interval,
    mean_interval,
    sample_interval,
    sample_stderr,
    seed_interval,
    share_interval,
)
from analysis.text.units import GIB, MIB, decimals, unit_for


def test_the_standard_error_of_a_fair_coin() -> None:
    # As lm-eval: over n - 1.
    assert sample_stderr(0.5, 101) == pytest.approx(0.05)


def test_wilson_has_a_width_where_all_answers_are_right() -> None:
    # z^2 / (n + z^2) below 1.
    low, high = sample_interval(1.0, 100)
    assert low == pytest.approx(1 - 1.96**2 / (100 + 1.96**2), abs=1e-4)
    assert high == pytest.approx(1.0)


def test_wilson_is_scipys_to_the_bit() -> None:
    for num in (1, 2, 7, 32, 100, 3245):
        for correct in {0, 1, num // 3, num - 1, num}:
            found = stats.binomtest(correct, num).proportion_ci(0.95, method="wilson")
            assert sample_interval(correct / num, num) == (found.low, found.high)


def test_students_interval_of_three_seeds() -> None:
    # t(0.975, 2) = 4.3027; standard deviation 0.01.
    interval = seed_interval([0.80, 0.81, 0.82])
    assert interval == pytest.approx((0.81 - 4.3027 * 0.01 / 3**0.5, 0.81 + 4.3027 * 0.01 / 3**0.5))
    assert seed_interval([0.8]) is None


def test_an_average_is_surer_than_its_parts() -> None:
    low, high = mean_interval([0.5, 0.7], [(0.4, 0.6), (0.6, 0.8)])
    assert (low, high) == pytest.approx((0.6 - 0.02**0.5 / 2, 0.6 + 0.02**0.5 / 2))


def test_an_average_keeps_the_longer_side_of_its_parts() -> None:
    low, high = mean_interval([0.9, 0.9], [(0.6, 0.95), (0.5, 0.95)])
    assert (low, high) == pytest.approx((0.9 - 0.25**0.5 / 2, 0.9 + 0.005**0.5 / 2))


def test_the_exact_interval_is_scipys_and_stands_for_few_examples() -> None:
    for num in (1, 2, 7, 39):
        for correct in {0, 1, num // 3, num - 1, num}:
            found = stats.binomtest(correct, num).proportion_ci(0.95, method="exact")
            assert exact_interval(correct / num, num) == pytest.approx((found.low, found.high))
            assert share_interval(correct / num, num) == exact_interval(correct / num, num)
    assert share_interval(0.5, 40) == sample_interval(0.5, 40)


def test_units_follow_the_largest_value() -> None:
    assert unit_for([None, GIB.num_bytes // 5]) is GIB
    assert unit_for([GIB.num_bytes // 20]) is MIB
    assert unit_for([]) is MIB
    assert unit_for([MIB.num_bytes, GIB.num_bytes]) is GIB
    assert MIB.text(None) == "–"
    assert MIB.text(3 * MIB.num_bytes // 2) == "1.50"


def test_numbers_as_text() -> None:
    assert decimals(1234.56, 1) == "1,234.6"
    assert decimals(-0.001, 2) == "0.00"
    assert decimals(-2, 0) == "\N{MINUS SIGN}2"
    assert decimals(float("nan"), 1) == "–"
