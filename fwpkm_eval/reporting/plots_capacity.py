"""Needles found against the number of needles, for memories of several sizes."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import scales, style, wording
from fwpkm_eval.reporting.plots_lines import moved, shifts_of
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import slug
from fwpkm_eval.reporting.tables_capacity import Found, OfSize, Way, capacity_results, usual_size

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes


def capacity_plots(frame: pandas.DataFrame) -> list[Plot]:
    """One figure for each length and way of writing, after the most readings: over slots, and over widths of values."""
    last: dict[tuple[int, str], tuple[Way, Found]] = {}
    for way, found in capacity_results(frame).items():
        last[way.length, way.write_chunk] = (way, found)  # in order of readings
    return [_plot(way, found) for way, found in last.values()]


def _plot(way: Way, found: Found) -> Plot:
    sizes = list(found)
    usual = usual_size(found)
    panels = [
        (
            f"Several numbers of slots, dv {usual.value_dim}",
            "slots",
            [size for size in sizes if size.value_dim == usual.value_dim],
            lambda size: f"{size.subkeys**2:,}",
        ),
        (
            f"Several widths dv, {usual.subkeys**2:,} slots",
            "dv",
            [size for size in sizes if size.subkeys == usual.subkeys],
            lambda size: str(size.value_dim),
        ),
    ]
    figure, grid = style.new_figure(2, 1, 3.6, sharex=True)
    numbers = sorted({needles for line in found.values() for needles in line.pooled})
    for (axes,), (title, what, chosen, name) in zip(grid, panels, strict=True):
        shifts = shifts_of(len(chosen), numbers)
        colours = style.steps(len(chosen))
        for size, shift, colour, marker in zip(chosen, shifts, colours, cycle(style.MARKERS), strict=False):
            _draw(axes, found[size], shift, colour, marker, name(size))
        scales.percent_axis(axes.yaxis)
        scales.size_axis(axes.xaxis, numbers, room=max(shifts))
        axes.set_title(title, loc="left", fontweight="bold")
        axes.legend(title=what, title_fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), alignment="left")
    figure.supylabel("needles found, closed book", fontsize=7.5)
    grid[-1][0].set_xlabel("needles in the haystack")
    some = next(iter(next(iter(found.values())).pooled.values()))
    how = f"{wording.writing(way.write_chunk)}, {wording.readings(way.passes)}"
    return style.finish(
        figure,
        slug("capacity", wording.size(way.length), way.write_chunk),
        f"Needles held at {wording.size(way.length)}, {how}",
        f"Above: numbers of slots. Below: widths dv of the values; a colour is a number of slots or a width. Each "
        f"point: {some.n} haystacks{_seeds(some.seeds)} Points of one number of needles stand side by side.",
    )


def _draw(axes: Axes, size: OfSize, shift: float, colour: str, marker: str, name: str) -> None:
    """One size: its pooled rates as a line, and at each number of needles a bar from the worst seed to the best."""
    for needles in size.pooled:
        rates = [100 * by_needles[needles] for by_needles in size.by_seed.values() if needles in by_needles]
        at = moved(needles, shift)
        axes.vlines(at, min(rates), max(rates), color=colour, alpha=0.6, linewidth=0.9, zorder=2)
        axes.plot([at] * len(rates), rates, "_", color=colour, markersize=3, markeredgewidth=0.8, zorder=2)
    axes.plot(
        [moved(needles, shift) for needles in size.pooled],
        [100 * measured.value for measured in size.pooled.values()],
        marker=marker,
        markeredgecolor=style.CARD,
        markeredgewidth=0.5,
        linewidth=0.9,
        color=colour,
        label=name,
        clip_on=False,
        zorder=3,
    )


def _seeds(seeds: int) -> str:
    if seeds < 2:
        return " of one training; the table has the intervals."
    return (
        f" over {seeds} seeds, each a training of its own; upright bars: from the worst seed to the best, a dash for "
        "each. The table has the intervals."
    )
