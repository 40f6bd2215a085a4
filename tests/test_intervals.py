"""Intervals against values worked out in higher precision and against published examples."""

from __future__ import annotations

import math
import random
import statistics
from decimal import Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwpkm_eval.runs.intervals import (
    Z_95,
    mean_interval,
    newcombe_interval,
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


def test_newcombe_matches_published_values() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table II, method 10.
    for case, low, high in [
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ]:
        assert newcombe_interval(*case) == pytest.approx((low, high), abs=5e-5)


def test_newcombe_is_antisymmetric_and_needs_tries() -> None:
    low, high = newcombe_interval(17, 20, 4, 15)
    assert newcombe_interval(4, 15, 17, 20) == pytest.approx((-high, -low), abs=1e-15)
    with pytest.raises(ValueError, match="both sides"):
        newcombe_interval(0, 0, 1, 2)


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
