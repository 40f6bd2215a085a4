"""Needles found against the number of needles, for memories of several sizes."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import style, wording
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import slug
from fwpkm_eval.reporting.tables_capacity import Found, Way, capacity_results, usual_size

if TYPE_CHECKING:
    import pandas


_MARKERS = "osD^v"


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
        ("slots", [size for size in sizes if size.value_dim == usual.value_dim], lambda size: f"{size.subkeys**2:,}"),
        ("dv", [size for size in sizes if size.subkeys == usual.subkeys], lambda size: str(size.value_dim)),
    ]
    figure, grid = style.new_figure(1, 2, 2.5, sharey=True)
    for axes, (what, chosen, name) in zip(grid[0], panels, strict=True):
        for size, opacity, marker in zip(chosen, style.opacities(len(chosen)), cycle(_MARKERS)):
            line = found[size].pooled
            asked = list(line)
            axes.plot(
                asked,
                [100 * line[needles].value for needles in asked],
                marker=marker,
                markersize=3.5,
                color=style.BAR,
                alpha=opacity,
                label=name(size),
            )
        style.size_axis(axes.xaxis, sorted({needles for line in found.values() for needles in line.pooled}))
        axes.set_xlabel("needles in the haystack")
        axes.legend(
            title=what,
            fontsize=6,
            title_fontsize=6.5,
            handlelength=1.4,
            columnspacing=0.8,
            ncols=3,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
        )
    style.percent_axis(grid[0][0].yaxis)
    grid[0][0].set_ylabel("found, closed book")
    some = next(iter(next(iter(found.values())).pooled.values()))
    how = f"{wording.writing(way.write_chunk)}, {wording.readings(way.passes)}"
    return style.finish(
        figure,
        slug("capacity", wording.size(way.length), way.write_chunk),
        f"Needles held at {wording.size(way.length)}, {how}",
        f"Left: numbers of slots, dv {usual.value_dim}. Right: widths of the values, {usual.subkeys**2:,} slots. Each "
        f"point: {some.n} haystacks over {some.seeds} seeds; the table has the intervals.",
    )
