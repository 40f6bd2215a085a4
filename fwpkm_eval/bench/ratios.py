"""What is told of the seconds of single calls: percentiles, and how many times as fast one thing is as another."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """10th percentile, median, 90th percentile."""
    low, high = np.percentile(seconds, (10, 90))
    return float(low), statistics.median(seconds), float(high)


def times_as_fast(seconds: Sequence[float], other: Sequence[float]) -> tuple[float, float, float]:
    """How many times as fast as the ``other``: the ratio of medians, between bounds over 10th and 90th percentiles."""
    low, middle, high = percentiles(seconds)
    other_low, other_middle, other_high = percentiles(other)
    return other_low / high, other_middle / middle, other_high / low
