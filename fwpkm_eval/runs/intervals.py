"""Wilson's interval for rates, Student's for means, and exact tests: whether rates differ, or are above chance."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided 95% interval."""

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""Student's two-sided 95% quantiles for 1, 2, … degrees of freedom."""


def wilson_interval(successes: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval for the rate behind ``successes`` out of ``n`` tries.

    The two rates ``p`` with ``(successes/n - p)² = z² p (1 - p) / n`` (E. B. Wilson, 1927). Unlike the normal
    interval it stays within [0, 1] and has a width at 0 and at ``n`` successes. No tries say nothing: (0, 1).
    ``successes`` need not be whole, for tries that succeed in part (the right digits of an answer).

    Raises:
        ValueError: ``n`` is negative or ``successes`` is not within 0 … ``n``.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} tries is no rate")
    if n == 0:
        return 0.0, 1.0
    failures = n - successes
    z2 = z * z
    middle = (successes + z2 / 2) / (n + z2)
    half = z / (n + z2) * math.sqrt(successes * failures / n + z2 / 4)
    # At the ends the formula is exact on paper but not in floating point, so they are set.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if failures == 0 else middle + half
    return low, high


def fisher_p_value(successes: int, n: int, other_successes: int, other_n: int) -> float:
    """Fisher's exact test, two-sided: how likely, if both rates are one, counts no likelier than these are.

    Given how many of all tries succeeded, the successes of one side are hypergeometric; added up are the probabilities
    of all counts that are no likelier than those found (R. A. Fisher, 1935). Exact for any number of tries, where
    intervals that rest on a normal distribution call 2 of 5 and 5 of 5 different (p is 0.17). It takes the tries for
    independent: of rates from the same samples, which mostly rise and fall together, it calls too few different
    rather than too many. A side without tries says nothing: 1.

    Raises:
        ValueError: a count is no rate.
    """
    for found, tries in ((successes, n), (other_successes, other_n)):
        if not 0 <= found <= tries:
            raise ValueError(f"{found} successes in {tries} tries is no rate")
    total = successes + other_successes
    counts = range(max(0, total - other_n), min(n, total) + 1)
    # Whole numbers, so that counts as likely as those found are not lost to rounding.
    ways = [math.comb(n, count) * math.comb(other_n, total - count) for count in counts]
    found_ways = math.comb(n, successes) * math.comb(other_n, other_successes)
    return sum(way for way in ways if way <= found_ways) / sum(ways)


def binomial_p_value(successes: int, n: int, chance: float) -> float:
    """How likely ``successes`` or more of ``n`` tries are where each succeeds with probability ``chance``.

    Raises:
        ValueError: the count is no rate, or ``chance`` no probability.
    """
    if not 0 <= successes <= n or not 0.0 <= chance <= 1.0:
        raise ValueError(f"{successes} successes in {n} tries of chance {chance} is no rate")
    return math.fsum(
        math.comb(n, count) * chance**count * (1 - chance) ** (n - count) for count in range(successes, n + 1)
    )


def mean_interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Mean of ``values`` and Student's 95% interval ``mean ± t s / √n``, ``s`` their standard deviation.

    One value has a mean but no interval (None). For quantities such as log-probabilities or one value per seed, not
    for rates. For a difference between two models give the differences seed by seed: what a seed does to both is then
    left out. From three values the interval is ± 2.5 standard deviations.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("the mean of no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None, None
    half = student_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def rate_difference_interval(rate: float, other: float, n: int) -> tuple[float, float]:
    """Newcombe's 95% interval for ``rate - other``, each of ``n`` tries, from Wilson's of both (R. G. Newcombe, 1998,
    method 10). It takes the tries for independent: of rates from the same samples it is rather too wide.

    Raises:
        ValueError: one is no rate.
    """
    (low, high), (other_low, other_high) = (wilson_interval(min(one * n, n), n) for one in (rate, other))
    below = math.hypot(rate - low, other_high - other)
    above = math.hypot(high - rate, other - other_low)
    return rate - other - below, rate - other + above


def student_quantile(degrees: int) -> float:
    """Student's two-sided 95% quantile: from a table, and beyond it by the Cornish-Fisher expansion (to 0.001)."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    z = Z_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2
