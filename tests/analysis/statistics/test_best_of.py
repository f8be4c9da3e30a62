"""The best of k trials: closed forms, and the band against draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from analysis.statistics.best_of import (
    coverage,
    expected_best,
    expected_best_band,
    simultaneous,
)

VALUES = [0.5, 0.93, 0.61, 0.52, 0.7, 0.61, 0.8]


@pytest.mark.parametrize("k", range(1, len(VALUES) + 1))
def test_it_is_the_mean_best_of_all_subsets(k: int) -> None:
    subsets = list(itertools.combinations(VALUES, k))
    mean = sum(map(max, subsets)) / len(subsets)
    assert expected_best(VALUES, k) == pytest.approx(mean, rel=1e-12)


def test_of_more_than_there_are_nothing_is_told() -> None:
    assert expected_best(VALUES, len(VALUES) + 1) is None and expected_best([], 1) is None


def test_one_draw_lies_in_the_middle_95_percent() -> None:
    low, high = simultaneous(1)
    assert low == pytest.approx([0.025], abs=1e-6) and high == pytest.approx([0.975], abs=1e-6)


def test_the_coverage_of_two_draws_is_an_area() -> None:
    """Both orders of two draws: twice the area in which a < x < b, c < y < d and x < y."""
    (a, b), (c, d) = (0.1, 0.6), (0.3, 0.9)
    # Of the rectangle (b - a)(d - c), a triangle has x above y: from c to b on both sides.
    area = (b - a) * (d - c) - (b - c) ** 2 / 2
    assert coverage(np.array([a, c]), np.array([b, d])) == pytest.approx(2 * area, rel=1e-12)


def test_without_limits_all_is_covered() -> None:
    assert coverage(np.zeros(9), np.ones(9)) == pytest.approx(1, rel=1e-12)
    assert coverage(np.zeros(9), np.full(9, 0.5)) == pytest.approx(0.5**9, rel=1e-9)


@pytest.mark.parametrize("number", [2, 5, 12])
def test_the_limits_hold_at_once_in_95_percent_of_samples(number: int) -> None:
    low, high = simultaneous(number)
    draws = np.sort(np.random.default_rng(number).random((40_000, number)), axis=1)
    inside = ((draws >= low) & (draws <= high)).all(axis=1).mean()
    assert inside == pytest.approx(0.95, abs=3.5 * np.sqrt(0.95 * 0.05 / 40_000))
    assert (np.diff(low) > 0).all() and (np.diff(high) > 0).all()


@pytest.mark.parametrize("power", [0.5, 1, 3])
def test_the_band_holds_the_truth_for_all_k_at_once(power: float) -> None:
    """Of x = u ** power the best of k has the mean k / (k + power)."""
    generator, ks, num_held, num_samples = np.random.default_rng(7), range(1, 9), 0, 1500
    for _ in range(num_samples):
        values = list(generator.random(8) ** power)
        bands = [expected_best_band(values, k) for k in ks]
        truths = [k / (k + power) for k in ks]
        num_held += all(low <= t <= high for (low, high), t in zip(bands, truths, strict=True))
    # The band of the distribution is exact; that of what follows from it can only be wider.
    assert num_held / num_samples >= 0.95 - 3.5 * np.sqrt(0.95 * 0.05 / num_samples)


def test_the_band_by_hand() -> None:
    """Two values: what is not seen lies at the ends of the support."""
    (a, b), (c, d) = simultaneous(2)
    low, high = expected_best_band([0.4, 0.7], 2, support=(0.1, 1.0))
    assert low == pytest.approx(0.1 * c**2 + 0.4 * (d**2 - c**2) + 0.7 * (1 - d**2))
    assert high == pytest.approx(0.4 * a**2 + 0.7 * (b**2 - a**2) + 1.0 * (1 - b**2))


@pytest.mark.parametrize("power", [0.5, 3])
def test_the_value_is_unbiased(power: float) -> None:
    generator, found = np.random.default_rng(3), []
    for _ in range(4000):
        found.append(expected_best(list(generator.random(6) ** power), 4))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(4 / (4 + power), abs=4 * error)
