"""The ablation as forest plots: each arm's difference to its reference, with its interval and every seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fwpkm_eval.ablations import SCORES
from fwpkm_eval.reporting import style, wording
from fwpkm_eval.reporting.measurements_ablation import (
    BETTER,
    WITHIN,
    WORSE,
    Difference,
    Results,
    Values,
    ablation_results,
    against_reference,
    bits_values,
    found_values,
    haystack_size,
    needle_counts,
)
from fwpkm_eval.reporting.style import Plot

if TYPE_CHECKING:
    import pandas
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


REACH = 1.0
"""How far beyond the seeds an interval is drawn, as a share of the span of all seeds; further on is an arrow."""
ABOVE, BELOW = 0.14, 0.27
"""How far, in lines, a mean stands above the middle of its line, and the seeds below it."""


@dataclass(frozen=True)
class _Measure:
    """One measure: its differences by (arm, scoring) in the unit of the axis, and a title for its panels."""

    title: str
    differences: dict[tuple[str, str], Difference]
    unit: float


def ablation_plots(frame: pandas.DataFrame) -> list[Plot]:
    """A figure for needles found and one for bits per byte, each if some arm has a reference to stand against."""
    results = ablation_results(frame)
    counts, size = needle_counts(results), haystack_size(frame)
    needles = [
        _Measure(f"{count} needles", _against(found_values(results, count), results, as_rate=True), 100)
        for count in counts
    ]
    bits = [_Measure("", _against(bits_values(results), results, as_rate=False), 1)]
    return [
        *_forest(
            "ablation-needles",
            f"Ablation: needles found at {size}, against the reference",
            [measure for measure in needles if measure.differences],
            results,
            "difference in points (right: finds more)",
            f"Exact match, the mean of all numbers of readings and ways of writing{_samples(frame)}.",
        ),
        *_forest(
            "ablation-bits",
            "Ablation: bits per byte, against the reference",
            [measure for measure in bits if measure.differences],
            results,
            "difference in bits per byte (left: better)",
            f"Bits per byte of text{_tokens(frame)}.",
        ),
    ]


def _against(values: Values, results: Results, *, as_rate: bool) -> dict[tuple[str, str], Difference]:
    found = {key: against_reference(values, *key, as_rate=as_rate) for key in results}
    return {key: difference for key, difference in found.items() if difference is not None}


def _forest(
    name: str, title: str, measures: Sequence[_Measure], results: Results, label: str, about: str
) -> list[Plot]:
    """A row of panels for each measure, a panel for each scoring, a line for each arm."""
    if not measures:
        return []
    shown = {key for measure in measures for key in measure.differences}
    scores = [score for score in SCORES if any(key[1] == score for key in shown)]
    arms = [arm for arm in dict.fromkeys(arm for arm, _ in results) if any(key[0] == arm for key in shown)]
    height = 0.7 + len(measures) * (0.36 + 0.185 * len(arms))
    figure, grid = style.new_figure(len(measures), len(scores), height, sharex=True, sharey=True)
    limits = _limits(measures)
    for measure, line in zip(measures, grid, strict=True):
        for score, axes in zip(scores, line, strict=True):
            for at, arm in enumerate(arms):
                difference = measure.differences.get((arm, score))
                if difference is None:
                    gone = (arm, score) in results and results[arm, score].diverged
                    _quiet(axes, at, "diverged" if gone else "not measured")
                else:
                    _draw(axes, at, difference, measure.unit, limits)
            axes.axvline(0, color=style.MUTED, linewidth=0.8, zorder=1)
            axes.set_xlim(limits)
            axes.locator_params(axis="x", nbins=5)
            axes.tick_params(axis="x", labelbottom=True)
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        line[0].set_yticks(range(len(arms)), arms)
        line[0].set_ylim(len(arms) - 0.4, -0.6)
        if measure.title:
            style.row_title(line[0], measure.title)
    for score, axes in zip(scores, grid[0], strict=True):
        style.heading(axes, f"scoring {score}", over_title=bool(measures[0].title))
    figure.supxlabel(label, fontsize=7.5)
    found = [difference for measure in measures for difference in measure.differences.values()]
    figure.legend(handles=_marks(found), loc="outside upper center", ncols=4)
    return [style.finish(figure, name, title, f"{about} {_caption(found)}{_diverged(results)}")]


def _draw(axes: Axes, at: int, difference: Difference, unit: float, limits: tuple[float, float]) -> None:
    """One line of a panel: the mean as a diamond in its interval, and below it the seeds as small dots."""
    colour = _colour(difference)
    seeds = [value * unit for value in difference.by_seed.values()]
    if difference.low is None or difference.high is None:
        axes.plot(seeds, [at] * len(seeds), "o", color=colour, markersize=4, markeredgewidth=0, zorder=3)
        return
    axes.plot(seeds, [at + BELOW] * len(seeds), "o", color=colour, markersize=2.6, markeredgewidth=0, zorder=3)
    low, high = difference.low * unit, difference.high * unit
    axes.hlines(at - ABOVE, max(low, limits[0]), min(high, limits[1]), color=colour, linewidth=1.2, zorder=2)
    for beyond, limit, arrow in ((low < limits[0], limits[0], "<"), (high > limits[1], limits[1], ">")):
        if beyond:
            axes.plot(limit, at - ABOVE, arrow, color=colour, markersize=3.5, clip_on=False, zorder=3)
    face = style.CARD if difference.verdict == WITHIN else colour
    axes.plot(difference.mean * unit, at - ABOVE, "D", color=colour, markerfacecolor=face, markersize=4, zorder=4)


def _quiet(axes: Axes, at: int, text: str) -> None:
    axes.text(0.02, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, color=style.MUTED)


def _colour(difference: Difference) -> str:
    return {BETTER: style.BETTER, WORSE: style.WORSE}.get(difference.verdict, style.EVEN)


def _limits(measures: Sequence[_Measure]) -> tuple[float, float]:
    """All seeds and 0, and of the intervals what is not far away from them: a few seeds can give very wide ones."""
    found = [(difference, measure.unit) for measure in measures for difference in measure.differences.values()]
    seeds = [0.0, *(value * unit for difference, unit in found for value in difference.by_seed.values())]
    ends = [end * unit for difference, unit in found for end in (difference.low, difference.high) if end is not None]
    least, most = min(seeds), max(seeds)
    span = (most - least) or 0.01 * found[0][1]
    low = max(min([least, *ends]), least - REACH * span)
    high = min(max([most, *ends]), most + REACH * span)
    return low - 0.06 * (high - low or span), high + 0.06 * (high - low or span)


def _marks(found: Sequence[Difference]) -> list[Artist]:
    """The legend: what the marks in the figure mean, only those that are there."""
    from matplotlib.lines import Line2D

    marks: list[Artist] = [Line2D([], [], color=style.EVEN, linestyle="", marker="o", markersize=3, label="one seed")]
    verdicts = [difference.verdict for difference in found]
    for verdict, colour, face in (
        (WORSE, style.WORSE, style.WORSE),
        (BETTER, style.BETTER, style.BETTER),
        (WITHIN, style.EVEN, style.CARD),
    ):
        if verdict in verdicts:
            mark = Line2D([], [], color=colour, marker="D", markersize=4, markerfacecolor=face, linewidth=1.2)
            mark.set_label("within spread" if verdict == WITHIN else verdict)
            marks.append(mark)
    return marks


def _caption(found: Sequence[Difference]) -> str:
    seeds = sorted({len(difference.by_seed) for difference in found})
    counted = f"{seeds[0]}{f' to {seeds[-1]}' if seeds[-1] > seeds[0] else ''} seed{'s' if seeds[-1] > 1 else ''}"
    text = f"Arm less reference, each pair trained with the same seed ({counted}); dots: single seeds."
    if seeds[-1] == 1:
        return f"{text} One seed says nothing of the spread: there is no interval."
    return (
        f"{text} Diamonds: their mean with its 95% interval (Student's t over the seeds), filled and coloured where it "
        "leaves out 0; an arrow where it goes on. One interval in twenty misses: a lone, small difference among many "
        "arms is no finding."
    )


def _diverged(results: Results) -> str:
    """Which trainings diverged and are therefore in no dot."""
    gone = [
        f"{arm} ({score}) with seed{'s' if len(result.diverged) > 1 else ''} "
        f"{wording.listing([str(seed) for seed in sorted(result.diverged)])}"
        for (arm, score), result in results.items()
        if result.diverged
    ]
    return f" Diverged in training, and in no dot: {wording.listing(gone)}." if gone else ""


def _samples(frame: pandas.DataFrame) -> str:
    counts = _counts(frame, "exact_match")
    return f", {wording.grouped(counts[0])} haystacks for each of them and each seed" if len(counts) == 1 else ""


def _tokens(frame: pandas.DataFrame) -> str:
    counts = _counts(frame, "bits_per_byte")
    return f", {wording.grouped(counts[0])} tokens" if len(counts) == 1 else ""


def _counts(frame: pandas.DataFrame, metric: str) -> list[int]:
    rows = frame[(frame["task"] == "ablation") & (frame["metric"] == metric)]
    return sorted({int(n) for n in rows["n"].dropna()})
