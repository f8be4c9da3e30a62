"""A difference over seeds and examples, against closed forms and scipy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from analysis.statistics.difference import Difference, Part, two_sided
from analysis.statistics.paired import (
    Pairs,
    bootstrap,
    consistency,
    difference,
    mcnemar,
    p_of_examples,
)


def drawn(num_seeds: int, num: int, seed: int = 0, shift: float = 0.2) -> Pairs:
    draw = np.random.default_rng(seed)
    first, second = (draw.random((num_seeds, num)) < level for level in (0.6 + shift, 0.6))
    return Pairs(first.astype(float) - second)


def test_one_part_alone_is_students_t() -> None:
    values = np.array([0.02, 0.11, 0.05, 0.09])
    part = Part(float(values.var(ddof=1)) / 4, 3)
    found = stats.ttest_1samp(values, 0)
    assert two_sided(float(values.mean()), (part, Part(0.0, 99))) == pytest.approx(found.pvalue)
    low, high = found.confidence_interval(0.95)
    assert part.half(0.025) == pytest.approx((high - low) / 2)


@pytest.mark.parametrize("value", [0.03, 0.1, 0.5, 2.0])
def test_p_is_where_the_interval_ends_at_zero(value: float) -> None:
    parts = (Part(0.01, 2), Part(0.02, 150))
    p = two_sided(value, parts)
    assert math.hypot(*(part.half(p / 2) for part in parts)) == pytest.approx(value, rel=1e-6)


def test_nothing_is_no_evidence_and_certainty_is_some() -> None:
    none = Part(0.0, 5)
    assert two_sided(0.0, (none,)) == 1.0 and two_sided(1e-15, (Part(0.0, 2),)) == 1.0
    assert two_sided(0.1, (none,)) == 0.0
    assert two_sided(1e9, (Part(1.0, 2), Part(1.0, 2))) < 1e-15


def test_the_seeds_part_is_that_of_their_means() -> None:
    tasks = [drawn(3, 200, seed) for seed in range(6)]
    found = difference(tasks)
    means = np.mean([task.differences.mean(axis=1) for task in tasks], axis=0)
    assert found.seeds is not None
    assert found.value == pytest.approx(means.mean())
    assert found.seeds.variance == pytest.approx(means.var(ddof=1) / 3) and found.seeds.df == 2
    assert (found.num_seeds, found.num_examples) == (3, 1200)


def test_the_examples_alone_are_the_central_limits() -> None:
    task = drawn(1, 400)
    found = difference([task])
    assert found.seeds is None and found.interval is None and found.p is None
    assert found.alone.variance == pytest.approx(task.differences[0].var(ddof=1) / 400)


def test_examples_that_each_seed_draws_anew_count_once() -> None:
    """All of it is luck of seed and example together: the seeds' part has it already."""
    tasks = [drawn(20, 4000, seed, shift=0.0) for seed in range(6)]
    found = difference(tasks)
    assert found.examples.variance < 0.2 * found.alone.variance
    same = [Pairs(np.repeat(task.differences[:1], 20, axis=0)) for task in tasks]
    found = difference(same)
    assert found.seeds is not None and found.seeds.variance == pytest.approx(0, abs=1e-12)
    assert found.examples.variance == pytest.approx(found.alone.variance)


def test_a_passage_is_one_example() -> None:
    whole = drawn(3, 500)
    copied = Pairs(np.repeat(whole.differences, 4, axis=1), np.repeat(np.arange(500), 4))
    apart, together = difference([whole]), difference([copied])
    assert together.value == pytest.approx(apart.value)
    assert together.examples.df == apart.examples.df == 499
    assert together.alone.variance == pytest.approx(apart.alone.variance)
    ungrouped = difference([Pairs(copied.differences)])
    assert ungrouped.alone.variance < 0.3 * together.alone.variance


def test_one_passage_decides_nothing() -> None:
    task = Pairs(np.ones((3, 40)), np.zeros(40, dtype=int))
    p = difference([task]).p
    assert p is not None and p > 0.3


def test_all_right_against_all_wrong_has_an_error_too() -> None:
    found = difference([Pairs(np.ones((3, 20)))])
    low, high = found.interval or (0, 0)
    assert found.value == 1 and 0.7 < low < 1 < high


def test_the_bootstrap_is_as_wide_as_the_closed_form() -> None:
    for tasks in (
        [drawn(3, 300, seed) for seed in range(4)],
        [Pairs(np.repeat(drawn(3, 80).differences, 3, axis=1), np.repeat(np.arange(80), 3))],
    ):
        low, high = bootstrap(tasks)
        found = difference(tasks)
        assert (low + high) / 2 == pytest.approx(found.value, abs=0.01)
        assert (high - low) / 2 == pytest.approx(found.alone.half(0.025), rel=0.08)
        assert bootstrap(tasks) == (low, high)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (5, 0), (3, 7), (40, 41), (1, 12)])
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    num = first + second
    exact = stats.binomtest(first, num, 0.5).pvalue if num else 1.0
    assert mcnemar(first, second) == pytest.approx(exact)


def test_one_seed_of_one_task_is_mcnemars() -> None:
    task = Pairs(np.array([[1.0] * 9 + [-1.0] * 2 + [0.0] * 30]))
    assert p_of_examples([task]) == pytest.approx(stats.binomtest(9, 11, 0.5).pvalue)
    assert p_of_examples([task, task]) == pytest.approx(
        two_sided(difference([task, task]).value, (difference([task, task]).alone,))
    )


@pytest.mark.parametrize("df", [1, 2, 5, 19, 199, 500])
@pytest.mark.parametrize("num_claims", [1, 8])
def test_the_smallest_difference_is_seen_four_times_in_five(df: int, num_claims: int) -> None:
    part = Part(0.04, df)
    none = Part(0.0, 9)
    least = Difference(0.0, part, none, none, df + 1, 100).smallest(num_claims)
    critical = stats.t.isf(0.025 / num_claims, df)
    assert least is not None
    assert stats.nct.sf(critical, df, least / 0.2) == pytest.approx(0.8, abs=0.004)


def test_above_a_margin_the_rest_stays() -> None:
    found = difference([drawn(3, 200)])
    over = found.above(0.2)
    assert over.value == pytest.approx(found.value - 0.2)
    assert (over.seeds, over.examples) == (found.seeds, found.examples)


def test_seeds_that_are_alike_by_chance_do_not_make_examples_sure() -> None:
    """Each seed is 5 of 200 above, on examples of its own."""
    differences = np.zeros((3, 200))
    for seed in range(3):
        differences[seed, seed * 50 : seed * 50 + 20] = 1
        differences[seed, seed * 50 + 20 : seed * 50 + 35] = -1
    found = difference([Pairs(differences)])
    assert found.seeds is not None and found.seeds.variance < 1e-30 and found.examples.variance == 0
    assert found.value == pytest.approx(0.025)
    assert found.p == found.p_of_examples and found.p is not None and found.p > 0.1
    assert found.half() == pytest.approx(found.alone.half(0.025))


def test_one_sided_p() -> None:
    found = difference([drawn(3, 200)])
    assert found.p is not None and found.p_above == pytest.approx(found.p / 2)
    turned = difference([Pairs(-drawn(3, 200).differences)])
    assert turned.p_above == pytest.approx(1 - found.p / 2)


def test_seeds_answer_alike_where_all_are_right_or_all_wrong() -> None:
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0]], dtype=float)
    assert consistency(right) == 0.5
    assert consistency(right[:1]) is None
