"""What each part of FwPKM is worth: every arm beside its reference, both scorings side by side, over the seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from fwpkm_eval.ablations import PUBLISHED_SCORING, REFERENCE, SCORES, Arm, arm_named
from fwpkm_eval.errors import UserError
from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.measurements import chunk_order
from fwpkm_eval.reporting.measurements_ablation import (
    WITHIN,
    ArmResult,
    BySeed,
    Difference,
    Results,
    Values,
    ablation_results,
    against_reference,
    asked_of,
    bits_values,
    difference,
    found_values,
    haystack_size,
    mean_of,
    needle_counts,
    text_read,
)
from fwpkm_eval.reporting.table import Rows, Table, slug
from fwpkm_eval.reporting.wording import MISSING

if TYPE_CHECKING:
    import pandas

ONE_SEED = "One training of each: how much others would differ is not known."
NOTHING = 1e-9
"""What is smaller comes from the rounding of sums and is written as 0."""


def ablation_tables(frame: pandas.DataFrame) -> list[Table]:
    """Needles found and bits per byte of each arm against its reference, the scorings compared, and the details."""
    results = ablation_results(frame)
    if not results:
        return []
    counts, size = needle_counts(results), haystack_size(frame)
    asked, text = asked_of(frame), text_read(frame)
    tables = [
        _comparison(
            slug("ablation", f"{needles}-needles"),
            f"Ablation: {needles} needles found at {size}",
            found_values(results, needles),
            results,
            "Exact match, the mean of all numbers of readings and ways of writing (each in a table below)"
            + (f": {asked}." if asked else "."),
            as_rate=True,
        )
        for needles in counts
    ]
    tables.append(
        _comparison(
            "ablation-bits",
            "Ablation: bits per byte of text",
            bits_values(results),
            results,
            "Lower is better" + (f"; {text}." if text else "."),
            as_rate=False,
        )
    )
    return [*tables, *_scoring_table(results, counts), *_way_tables(results, size, asked), _training_table(results)]


def _comparison(name: str, title: str, values: Values, results: Results, note: str, *, as_rate: bool) -> Table:
    """One measure: for each arm and scoring its mean over the seeds, and the difference to the reference."""
    scores = [score for score in SCORES if any(key[1] == score for key in results)]
    rows = Rows()
    seeds = most_seeds(values)
    for arm in dict.fromkeys(arm for arm, _ in results):
        entries: list[str] = [arm]
        for score in scores:
            against = against_reference(values, arm, score, as_rate=as_rate)
            entries += [
                _value(values.get((arm, score), {}), results.get((arm, score)), as_rate),
                difference_text(against, as_rate) if against else MISSING,
            ]
            if seeds > 1:
                entries.append(against.verdict if against else MISSING)
        rows.add(*entries)
    cut = ", cut off where no rate, and no difference of two, can be; over all haystacks where seeds are alike"
    cut = cut if as_rate else ""
    kinds = ("", ": difference", ": verdict")[: 3 if seeds > 1 else 2]
    several = (
        f"Mean and 95% interval over {seeds} seeds (Student's t{cut}); differences to the reference are paired over "
        f"the seeds, and “{WITHIN}” where their interval holds 0. One interval in twenty misses: a lone, small "
        "difference among many arms is no finding."
    )
    return Table(
        name=name,
        title=title,
        columns=("arm", *(f"{score}{kind}" for score in scores for kind in kinds)),
        rows=rows.done(),
        note=f"{note} {several if seeds > 1 else ONE_SEED}",
    )


def most_seeds(values: Values) -> int:
    """The most seeds that any arm was trained with."""
    return max((len(by_seed) for by_seed in values.values()), default=0)


def _scoring_table(results: Results, counts: Iterable[int]) -> list[Table]:
    """Dot product against inverse distances, arm by arm; nothing if only one was measured."""
    rows, several = Rows(), most_seeds(bits_values(results)) > 1
    arms = [
        arm for arm in dict.fromkeys(arm for arm, _ in results) if {(arm, score) for score in SCORES} <= set(results)
    ]
    for arm in arms:
        idw, dot = results[arm, "idw"], results[arm, "dot"]
        for needles in counts:
            found = difference(dot.found_of(needles), idw.found_of(needles), as_rate=True)
            if found:
                rows.add(arm, f"{needles} needles found", difference_text(found, True), *[found.verdict] * several)
        bits = difference(dot.bits, idw.bits, as_rate=False)
        if bits:
            rows.add(arm, "bits per byte", difference_text(bits, False), *[bits.verdict] * several)
    if not rows.rows:
        return []
    return [
        Table(
            name="ablation-scoring",
            title="Ablation: dot-product scoring against inverse distances",
            columns=("arm", "measure", "dot less idw", *["dot is"] * several),
            rows=rows.done(),
            note=f"{'Paired over the seeds, as above.' if several else ONE_SEED} Published: {PUBLISHED_SCORING}.",
            labels=2,
            words=int(several),
        )
    ]


def _way_tables(results: Results, size: str, asked: str) -> list[Table]:
    """Exact match of every arm after each number of readings, one table for each way of writing."""
    exact = f"Exact match, {asked}" if asked else "Exact match"
    ways = {way for result in results.values() for way in result.found}
    tables = []
    for needles, chunk in sorted({way[:2] for way in ways}, key=lambda way: (-way[0], chunk_order(way[1]))):
        passes = sorted(way[2] for way in ways if way[:2] == (needles, chunk))
        several = most_seeds(found_values(results, needles)) > 1
        spread = "mean and 95% interval over the seeds (cut off where no rate can be)."
        note = f"{exact}; {spread}" if several else f"{exact}. {ONE_SEED}"
        rows = Rows()
        for (arm, score), result in results.items():
            found = [_value(result.found.get((needles, chunk, count), {}), result, True) for count in passes]
            rows.add(arm, score, *found)
        tables.append(
            Table(
                name=slug("ablation", f"{needles}-needles", chunk),
                title=f"Ablation: {needles} needles found at {size}, {wording.writing(chunk)}",
                columns=("arm", "scoring", *(wording.readings(count) for count in passes)),
                rows=rows.done(),
                note=note,
                labels=2,
                detail=True,
            )
        )
    return tables


def _training_table(results: Results) -> Table:
    """What each arm is, how its training went, and what was published about it."""
    rows = Rows()
    for (arm, score), result in results.items():
        about = _described(arm)
        dropped = sum(result.dropped.values())
        rows.add(
            arm,
            score,
            _value(result.learned, result, True),
            f"{dropped:.0f}" if result.dropped else MISSING,
            about.tests if about else "nothing is changed" if arm == REFERENCE else MISSING,
            (about.published if about else "") or MISSING,
        )
    return Table(
        name="ablation-training",
        title="Ablation: training of the arms",
        columns=("arm", "scoring", "digits right in training", "dropped steps", "what it is", "published"),
        rows=rows.done(),
        note="Digits of the answers that were right over the last 100 steps with answers. A step whose loss or "
        "gradient is not finite is dropped and the memory starts anew; after 20 in a row training has diverged.",
        labels=2,
        words=2,
        detail=True,
    )


def _described(arm: str) -> Arm | None:
    """The arm of a row; None for the reference, and for what only another version knows."""
    try:
        return arm_named(arm)
    except UserError:
        return None


def _value(by_seed: BySeed, result: ArmResult | None, as_rate: bool) -> str:
    """``85% (79–91)`` or ``2.993 (2.972–3.014)``, and which seeds diverged."""
    parts = []
    if by_seed:
        mean, low, high = mean_of(by_seed, as_rate=as_rate)
        shown = wording.percent(mean) if as_rate else f"{mean:.3f}"
        if low is not None and high is not None:
            shown += f" ({low * 100:.0f}–{high * 100:.0f})" if as_rate else f" ({low:.3f}–{high:.3f})"
        parts.append(shown)
    if result is not None and result.diverged:
        steps = wording.listing([str(step) for step in result.diverged.values()])
        parts.append(f"{len(result.diverged)} diverged (after step {steps})")
    return "; ".join(parts) or MISSING


def difference_text(found: Difference, as_rate: bool) -> str:
    """``−12 points (−20 to −4)`` for rates, ``+0.034 (+0.010 to +0.058)`` for others.

    What is not 0 is not written as 0: ``−0.2``, ``+0.000005``.
    """

    def number(value: float) -> str:
        value, digits = (value * 100, 0) if as_rate else (value, 3)
        if abs(value) < NOTHING:
            return f"{0:.{digits}f}"
        if not float(f"{abs(value):.{digits}f}"):
            digits = math.ceil(-math.log10(abs(value)))
        return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"

    text = number(found.mean) + (" points" if as_rate else "")
    if found.low is None or found.high is None:
        return text
    return f"{text} ({number(found.low)} to {number(found.high)})"
