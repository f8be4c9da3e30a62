"""Many claims, many methods, and ratios of times, against scipy's own and printed tables."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.several import friedman, holm, nemenyi, ranks
from analysis.statistics.speed import NUM_BLOCKS, paired_ratio, welch_ratio


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == [] and holm([None]) == [None] and holm([0.2]) == [0.2]


def test_holm_is_never_below_the_least_and_keeps_the_order() -> None:
    ps = list(np.random.default_rng(0).random(30) ** 3)
    found = np.array(holm(ps))
    order = np.argsort(ps)
    assert (np.diff(found[order]) >= 0).all() and (found >= ps).all()
    assert found[order[0]] == pytest.approx(min(1, 30 * min(ps)))


def test_ranks_are_scipys_with_the_best_first() -> None:
    scores = np.array([[0.9, 0.8, 0.8, 0.1], [0.5, 0.5, 0.5, 0.5]])
    expected = [stats.rankdata(-row) for row in scores]
    assert np.array_equal(ranks(scores), expected)


def test_friedman_is_scipys_in_iman_and_davenports_form() -> None:
    scores = np.random.default_rng(3).random((6, 5)) + np.linspace(0, 0.6, 5)
    chi = stats.friedmanchisquare(*scores.T).statistic
    f = 5 * chi / (6 * 4 - chi)
    assert friedman(scores) == pytest.approx(stats.f.sf(f, 4, 20))
    assert friedman(np.ones((6, 3))) is None and friedman(scores[:1]) is None
    assert friedman(np.tile([1.0, 2.0, 3.0], (6, 1))) == 0.0


@pytest.mark.parametrize(
    ("num", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (7, 2.949), (10, 3.164)]
)
def test_nemenyis_distance_is_the_printed_one(num: int, q: float) -> None:
    """Demsar (2006), table 5(a)."""
    assert nemenyi(num, 6) == pytest.approx(q * np.sqrt(num * (num + 1) / 36), abs=0.001 * num)


def test_ratios_of_rounds_are_a_t_test_of_their_logarithms() -> None:
    ratios = [1.02, 1.05, 1.01, 1.04]
    found = paired_ratio(ratios)
    assert found is not None
    test = stats.ttest_1samp(np.log(ratios), 0)
    assert found.p() == pytest.approx(test.pvalue)
    assert found.interval == pytest.approx(np.exp(test.confidence_interval(0.95)))
    assert found.value == pytest.approx(stats.gmean(ratios))
    limit = stats.ttest_1samp(np.log(ratios), np.log(1.06))
    assert found.p(1.06) == pytest.approx(limit.pvalue)
    assert paired_ratio([1.1]) is None
    certain = paired_ratio([1.1, 1.1])
    assert certain is not None and certain.p(1.1) == 1.0 and certain.p() == 0.0


def test_ratios_of_steps_are_welchs_over_blocks() -> None:
    draw = np.random.default_rng(1)
    first, second = (np.exp(draw.normal(m, s, 30)) for m, s in ((0.1, 0.05), (0.0, 0.2)))
    found = welch_ratio(list(first), list(second))
    blocks = [np.log(times).reshape(NUM_BLOCKS, -1).mean(axis=1) for times in (first, second)]
    test = stats.ttest_ind(*blocks, equal_var=False)
    assert found is not None and found.p() == pytest.approx(test.pvalue)
    low, high = np.exp(test.confidence_interval(0.95))
    assert found.interval == pytest.approx((low, high))
    assert welch_ratio([1.0], list(second)) is None and welch_ratio([], []) is None
    same = welch_ratio([2.0, 2.0], [1.0, 1.0])
    assert same is not None and same.value == pytest.approx(2) and same.p() == 0.0


def test_steps_that_drift_together_are_not_as_many_witnesses() -> None:
    """A slow half minute hits many steps in a row: of like processes few are told apart."""
    draw = np.random.default_rng(5)

    def steps() -> list[float]:
        drift = np.repeat(draw.normal(0, 0.05, 6), 5)
        return list(np.exp(drift + draw.normal(0, 0.005, 30)))

    both = [(steps(), steps()) for _ in range(400)]
    told = sum((found := welch_ratio(*pair)) is not None and found.p() <= 0.05 for pair in both)
    naive = sum(
        stats.ttest_ind(*map(np.log, pair), equal_var=False).pvalue <= 0.05 for pair in both
    )
    assert told <= 0.08 * 400 < 0.25 * 400 < naive
