"""The ablation's results by arm and scoring, and differences to the reference, paired over the seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fwpkm_eval.ablations import ARMS, REFERENCE, SCORES
from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.wording import MISSING
from fwpkm_eval.runs.intervals import mean_interval, rate_difference_interval, wilson_interval

if TYPE_CHECKING:
    import pandas

WORSE, BETTER, WITHIN, NEITHER = "worse", "better", "within the seeds' spread", "neither finds any"
BySeed = Mapping[int, float]


class Rates(dict[int, float]):
    """Rates by seed, each of so many ``haystacks`` (None: not known)."""

    haystacks: int | None = None


Way = tuple[int, str, int]
"""One way of asking for needles: (needles, write chunk, passes)."""


@dataclass
class ArmResult:
    """One arm under one scoring. Seeds whose training diverged are in ``diverged`` (with the step) and nowhere else.

    ``found``: exact match by way of asking and seed; ``bits``: bits per byte by seed; ``learned``: digits right at the
    end of training; ``dropped``: steps of training that were dropped as they diverged.
    """

    found: dict[Way, Rates] = field(default_factory=dict)
    bits: dict[int, float] = field(default_factory=dict)
    learned: dict[int, float] = field(default_factory=dict)
    dropped: dict[int, float] = field(default_factory=dict)
    diverged: dict[int, int] = field(default_factory=dict)

    def found_of(self, needles: int) -> Rates:
        """Exact match by seed, the mean of all ways in which this number of needles was asked for."""
        ways = [by_seed for way, by_seed in self.found.items() if way[0] == needles]
        seeds = set.intersection(*(set(by_seed) for by_seed in ways)) if ways else set()
        rates = Rates({seed: math.fsum(by_seed[seed] for by_seed in ways) / len(ways) for seed in sorted(seeds)})
        # All ways ask of the same haystacks: together they are no more of them.
        counts = [by_seed.haystacks for by_seed in ways]
        rates.haystacks = None if None in counts else min(filter(None, counts), default=None)
        return rates


@dataclass(frozen=True)
class Difference:
    """Arm less reference, seed by seed: the mean, its 95% interval (None with one seed), and whether less is better.

    ``neither``: a rate of both that is 0 with every seed; where nothing is found, no part of a model can be missed.
    """

    mean: float
    low: float | None
    high: float | None
    less_is_better: bool
    by_seed: Mapping[int, float]
    neither: bool = False

    @property
    def verdict(self) -> str:
        """Whether the difference is larger than the spread of the seeds, and which way."""
        if self.low is None or self.high is None:
            return MISSING
        if self.neither:
            return NEITHER
        if self.low <= 0 <= self.high:
            return WITHIN
        return BETTER if (self.mean < 0) == self.less_is_better else WORSE


Results = dict[tuple[str, str], ArmResult]
"""By (arm, scoring)."""
Values = Mapping[tuple[str, str], BySeed]
"""One measure: by (arm, scoring) and seed."""


def ablation_results(frame: pandas.DataFrame) -> Results:
    """The rows of task ``ablation``, by arm and scoring, in the order in which the arms are listed."""
    from pandas import isna

    rows = frame[frame["task"] == "ablation"]
    results: Results = {}
    for row in rows.to_dict("records"):
        result = results.setdefault((str(row["arm"]), str(row["score"])), ArmResult())
        seed, value = int(row["seed"]), row["value"]
        if row["metric"] == "diverged" and row["unit"] == "step":
            result.diverged[seed] = int(value)
        if not math.isfinite(value):
            continue
        if row["metric"] == "exact_match":
            way = (int(row["needles"]), str(row["write_chunk"]), int(row["passes"]))
            rates = result.found.setdefault(way, Rates())
            rates[seed] = value
            if not isna(row["n"]):
                rates.haystacks = min(int(row["n"]), rates.haystacks or int(row["n"]))
        of_arm = {
            "bits_per_byte": result.bits,
            "train_answer_accuracy": result.learned,
            "dropped_steps": result.dropped,
        }
        if row["metric"] in of_arm:
            of_arm[row["metric"]][seed] = value
    arms, scores = [REFERENCE, *ARMS], [*SCORES]
    return {
        key: results[key] for key in sorted(results, key=lambda key: (_place(key[0], arms), _place(key[1], scores)))
    }


def _place(name: str, names: list[str]) -> tuple[int, str]:
    return (names.index(name) if name in names else len(names), name)


def difference(arm: BySeed, reference: BySeed, *, as_rate: bool) -> Difference | None:
    """The paired difference over the seeds that both have; None if there are none.

    Of rates more is better, and no interval goes beyond what a difference of two can be, -1 and 1. It may go beyond
    what the mean of these seeds' references leaves room for: another seed has another reference. Where all seeds differ
    alike, which rates of few haystacks often do, it is Newcombe's over all haystacks. Of other values less is better.
    """
    by_seed = {seed: arm[seed] - reference[seed] for seed in sorted(set(arm) & set(reference))}
    if not by_seed:
        return None
    mean, low, high = mean_interval(list(by_seed.values()))
    if as_rate and _is_alike(low, high) and isinstance(arm, Rates) and arm.haystacks:
        rate, other = (math.fsum(of[seed] for seed in by_seed) / len(by_seed) for of in (arm, reference))
        low, high = rate_difference_interval(rate, other, arm.haystacks * len(by_seed))
    if as_rate:
        low, high = possible(low, high, -1.0, 1.0)
    neither = as_rate and not any(values[seed] for values in (arm, reference) for seed in by_seed)
    return Difference(mean, low, high, not as_rate, by_seed, neither)


def mean_of(by_seed: BySeed, *, as_rate: bool) -> tuple[float, float | None, float | None]:
    """Mean and 95% interval over the seeds (None with one). Rates stay within 0 and 1, and where all seeds have the
    same, it is Wilson's over all haystacks."""
    mean, low, high = mean_interval(list(by_seed.values()))
    if as_rate and _is_alike(low, high) and isinstance(by_seed, Rates) and by_seed.haystacks:
        tries = by_seed.haystacks * len(by_seed)
        low, high = wilson_interval(min(mean * tries, tries), tries)
    return (mean, *possible(low, high, 0.0, 1.0)) if as_rate else (mean, low, high)


def _is_alike(low: float | None, high: float | None) -> bool:
    """Whether several values, of which this is the interval, were one and the same but for rounding."""
    return low is not None and high is not None and high - low < 1e-9


def possible(low: float | None, high: float | None, least: float, most: float) -> tuple[float | None, float | None]:
    """An interval without what lies below ``least`` or above ``most``: bounds that hold whatever was measured."""
    return None if low is None else max(low, least), None if high is None else min(high, most)


def against_reference(values: Values, arm: str, score: str, *, as_rate: bool) -> Difference | None:
    """The difference of one arm to the reference of its scoring; None for the reference itself."""
    if arm == REFERENCE:
        return None
    return difference(values.get((arm, score), {}), values.get((REFERENCE, score), {}), as_rate=as_rate)


def needle_counts(results: Results) -> list[int]:
    """The numbers of needles that were asked for, the most first."""
    return sorted({way[0] for result in results.values() for way in result.found}, reverse=True)


def haystack_size(frame: pandas.DataFrame) -> str:
    """The length of the haystacks and how they were asked, ``4K, closed book``; empty if none was read."""
    rows = frame[(frame["task"] == "ablation") & (frame["metric"] == "exact_match")].dropna(subset=["length"])
    if not len(rows):
        return ""
    parts = [wording.size(int(rows["length"].iloc[0]))]
    parts += [wording.PROTOCOL_NAMES[name] for name in rows["protocol"].unique() if name in wording.PROTOCOL_NAMES]
    return ", ".join(parts)


def asked_of(frame: pandas.DataFrame) -> str:
    """How many haystacks, of which text, an arm was asked in each way: ``12 haystacks of manual for each training and
    way``; empty if none was read."""
    rows = frame[(frame["task"] == "ablation") & (frame["metric"] == "exact_match")].dropna(subset=["n"])
    numbers, sets = sorted(set(rows["n"])), sorted(set(rows["dataset"]) - {""})
    if not numbers:
        return ""
    samples = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    of = f" of {wording.listing(sets)}" if sets else ""
    return f"{samples} haystacks{of} for each training and way of asking"


def text_read(frame: pandas.DataFrame) -> str:
    """Of which text bits per byte are, and how much: ``65,536 tokens of source``; empty if none was read."""
    rows = frame[(frame["task"] == "ablation") & (frame["metric"] == "bits_per_byte")]
    tokens, sets = sorted(set(rows["tokens"].dropna())), sorted(set(rows["dataset"]) - {""})
    if not (tokens and sets):
        return ""
    return f"{tokens[-1]:,} tokens of {wording.listing(sets)}"


def found_values(results: Results, needles: int) -> Values:
    """Exact match of each arm and scoring by seed, the mean of all ways of asking for so many needles."""
    return {key: result.found_of(needles) for key, result in results.items()}


def bits_values(results: Results) -> Values:
    """Bits per byte of each arm and scoring by seed."""
    return {key: result.bits for key, result in results.items()}
