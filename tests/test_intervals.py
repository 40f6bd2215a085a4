"""Intervals against values worked out in higher precision and against published examples."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from decimal import Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwpkm_eval.runs.intervals import (
    Z_95,
    binomial_p_value,
    fisher_p_value,
    mean_interval,
    student_quantile,
    wilson_interval,
)


def wilson_in_fifty_digits(successes: int, n: int) -> tuple[float, float]:
    """The roots of (k/n − p)² = z² p (1 − p) / n, solved as a quadratic equation in p."""
    getcontext().prec = 50
    z2, k, count = Decimal(Z_95) ** 2, Decimal(successes), Decimal(n)
    a, b, c = count + z2, -(2 * k + z2), k * k / count
    root = (b * b - 4 * a * c).sqrt()
    return float((-b - root) / (2 * a)), float((-b + root) / (2 * a))


@pytest.mark.parametrize(("successes", "n"), [(0, 20), (1, 20), (17, 20), (20, 20), (5, 5), (443, 500), (1, 10**6)])
def test_wilson_is_exact(successes: int, n: int) -> None:
    assert wilson_interval(successes, n) == pytest.approx(wilson_in_fifty_digits(successes, n), rel=0, abs=1e-12)


def test_wilson_matches_published_values() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_z_is_the_normal_quantile() -> None:
    assert pytest.approx(statistics.NormalDist().inv_cdf(0.975), abs=1e-14) == Z_95


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_stays_within_bounds(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson_interval(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0
    mirrored = wilson_interval(n - successes, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_the_ends_are_exact_and_no_tries_say_nothing() -> None:
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(9.5, 20)[0] > wilson_interval(9, 20)[0]


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, -1), (5.1, 5)])
def test_what_is_no_rate_is_refused(successes: float, n: int) -> None:
    with pytest.raises(ValueError, match="no rate"):
        wilson_interval(successes, n)


def fisher_by_counting(one: int, n: int, other: int, other_n: int) -> float:
    """Deal as many successes among all tries in every way there is, and count the deals as unlikely as this one."""
    tries = [*range(n + other_n)]
    deals = [sum(at < n for at in chosen) for chosen in itertools.combinations(tries, one + other)]
    often = {count: deals.count(count) for count in set(deals)}
    return sum(number for number in often.values() if number <= often[one]) / len(deals)


@pytest.mark.parametrize(
    "case", [(2, 5, 5, 5), (4, 5, 0, 5), (3, 5, 0, 5), (1, 4, 6, 9), (0, 3, 0, 4), (5, 5, 5, 5), (7, 7, 0, 6)]
)
def test_fisher_is_exact(case: tuple[int, int, int, int]) -> None:
    assert fisher_p_value(*case) == pytest.approx(fisher_by_counting(*case), rel=1e-12)
    one, n, other, other_n = case
    assert fisher_p_value(other, other_n, one, n) == pytest.approx(fisher_p_value(*case), rel=1e-12)


def test_fisher_matches_published_values() -> None:
    # R. A. Fisher's tea tasting (3 of 4 right) and his convictions of twins (10 of 13 against 2 of 17).
    assert fisher_p_value(3, 4, 1, 4) == pytest.approx(0.4857, abs=5e-5)
    assert fisher_p_value(10, 13, 2, 17) == pytest.approx(0.0005367, abs=5e-8)


def test_fisher_seldom_calls_equal_rates_different() -> None:
    """Of pairs of five tries each with one rate, weighed by how often they come, under one in twenty differ."""
    for rate in (0.1, 0.5, 0.8):
        weights = [math.comb(5, count) * rate**count * (1 - rate) ** (5 - count) for count in range(6)]
        wrong = sum(
            weights[one] * weights[other]
            for one in range(6)
            for other in range(6)
            if fisher_p_value(one, 5, other, 5) < 0.05
        )
        assert wrong < 0.05
    assert fisher_p_value(2, 5, 5, 5) == pytest.approx(1 / 6, rel=1e-12)


def test_no_tries_say_nothing_and_what_is_no_count_is_refused() -> None:
    assert fisher_p_value(0, 0, 3, 4) == 1.0
    with pytest.raises(ValueError, match="no rate"):
        fisher_p_value(6, 5, 0, 5)
    with pytest.raises(ValueError, match="no rate"):
        fisher_p_value(1, 5, -1, 5)


def test_binomial_tail() -> None:
    assert binomial_p_value(3, 5, 0.2) == pytest.approx(0.05792, abs=1e-12)
    assert binomial_p_value(0, 5, 0.2) == pytest.approx(1.0, abs=1e-15)
    assert binomial_p_value(5, 5, 0.2) == pytest.approx(0.2**5, rel=1e-12)
    assert binomial_p_value(1, 20, 0.0) == 0.0
    for refused in ((6, 5, 0.2), (1, 5, 1.5)):
        with pytest.raises(ValueError, match="no rate"):
            binomial_p_value(*refused)


def test_mean_interval() -> None:
    values = [-1.0, -3.0, -2.0, -6.0]
    mean, low, high = mean_interval(values)
    half = 3.182 * statistics.stdev(values) / 2
    assert mean == -3.0
    assert (low, high) == pytest.approx((-3.0 - half, -3.0 + half), abs=1e-14)
    assert mean_interval([4.0]) == (4.0, None, None)
    assert math.fsum(mean_interval([0.1] * 10)[:1]) == pytest.approx(0.1, abs=0)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


@pytest.mark.parametrize(
    ("degrees", "published"), [(1, 12.706), (2, 4.303), (15, 2.131), (16, 2.120), (30, 2.042), (120, 1.980)]
)
def test_students_quantiles_are_those_of_the_tables(degrees: int, published: float) -> None:
    assert student_quantile(degrees) == pytest.approx(published, abs=1e-3)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_nineteen_of_twenty_intervals_hold_the_mean_however_few_values_there_are(count: int) -> None:
    draw = random.Random(0)
    held = 0
    for _ in range(4000):
        _, low, high = mean_interval([draw.gauss(0, 1) for _ in range(count)])
        assert low is not None
        assert high is not None
        held += low <= 0 <= high
    assert held / 4000 == pytest.approx(0.95, abs=0.012)
