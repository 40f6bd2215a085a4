"""The plot of what the operations cost: how many times as fast as the dense reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwpkm_eval.reporting import style
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.tables_speed import ratio_text, speedups

if TYPE_CHECKING:
    import pandas


def speed_plots(frame: pandas.DataFrame) -> list[Plot]:
    """One panel for each part that was timed, one bar for each operation or backend."""
    found = speedups(frame)
    if not found:
        return []
    ratios = [speedup.ratio for speedup in found]
    panels = list(dict.fromkeys(speedup.what for speedup in found))
    bars = list(dict.fromkeys(speedup.name for speedup in found))
    height = 0.45 + len(panels) * (0.28 + 0.2 * len(bars))
    figure, grid = style.new_figure(len(panels), 1, height, sharex=True)
    for what, (axes,) in zip(panels, grid, strict=True):
        for speedup in (speedup for speedup in found if speedup.what == what):
            at = bars.index(speedup.name)
            axes.barh(at, speedup.ratio, height=0.62, color=style.BAR)
            axes.annotate(
                ratio_text(speedup.ratio),
                (speedup.ratio, at),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.set_xscale("log")
        style.times_axis(axes.xaxis)
        axes.set_xlim(min(0.8, min(ratios) / 1.5), max(*ratios, 2.0) * 2.2)
        axes.axvline(1, color=style.MUTED, linewidth=0.8)
        axes.set_yticks(range(len(bars)), bars)
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_title(what or "speed", loc="left", fontweight="bold")
    grid[-1][0].set_xlabel("times as fast as the reference")
    return [
        style.finish(
            figure,
            "speed",
            "Speed against the reference",
            "Ratios from one run on one machine, whose outputs were first checked against each other.",
        )
    ]
