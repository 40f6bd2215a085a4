"""When two measurements are called different: what the verdicts of the summary rest on."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from fwpkm_eval.reporting.measurements import Measurement
from fwpkm_eval.runs.intervals import binomial_p_value, fisher_p_value, mean_interval

CLEAR = 0.05
"""Two rates with a smaller p-value are called different. Sentences are many, and none is corrected for that."""


def contrast(one: Measurement, other: Measurement) -> int:
    """1 where ``one`` clearly finds more than ``other``, −1 where it finds fewer, 0 where nobody can tell.

    Clear is what Fisher's exact test gives p < 0.05, and with several trainings only if each of them goes that way:
    pooled samples count as if they were of the same weights.
    """
    if not one.n or not other.n or fisher_p_value(*one.tries, *other.tries) >= CLEAR:
        return 0
    sign = 1 if one.value > other.value else -1
    return sign if all(sign * (rate - beside) > 0 for rate, beside in _side_by_side(one, other)) else 0


def _side_by_side(one: Measurement, other: Measurement) -> list[tuple[float, float]]:
    """Trainings of one and the other, by their seeds; each beside each where a seed does not tell them apart."""
    first, second = dict(one.by_training), dict(other.by_training)
    if len(first) < len(one.by_training) or len(second) < len(other.by_training):
        rates, beside = ([rate for _, rate in m.by_training] or [m.value] for m in (one, other))
        return list(itertools.product(rates, beside))
    return [(first.get(seed, one.value), second.get(seed, other.value)) for seed in sorted({*first, *second})]


def above_chance(measurement: Measurement, chance: float) -> bool:
    """Whether a rate is above chance: p < 0.05, and the rate of every training above it."""
    if not measurement.n or binomial_p_value(*measurement.tries, chance) >= CLEAR:
        return False
    return all(rate > chance for _, rate in measurement.by_training)


@dataclass(frozen=True)
class RelativeChange:
    """A relative change (−0.14: 14% less); over several trainings their mean, its 95% interval, and each one's."""

    value: float
    low: float | None = None
    high: float | None = None
    by_training: tuple[float, ...] = ()

    @property
    def direction(self) -> int:
        """−1 or 1 where the interval over the trainings leaves out zero on that side; 0 where it does not, or is none.

        What one training did, another may not do: one alone has no direction.
        """
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def relative_change(one: Measurement, other: Measurement) -> RelativeChange:
    """``one / other − 1``; of trainings by the seeds that both have, as what a seed does to both is then left out."""
    first, second = dict(one.by_training), dict(other.by_training)
    shared = sorted(set(first) & set(second))
    # Trainings measured with one seed cannot be told apart by it.
    paired = len(first) == len(one.by_training) and len(second) == len(other.by_training)
    if len(shared) < 2 or not paired:
        return RelativeChange(one.value / other.value - 1)
    changes = tuple(first[seed] / second[seed] - 1 for seed in shared)
    mean, low, high = mean_interval(changes)
    return RelativeChange(mean, low, high, changes)
