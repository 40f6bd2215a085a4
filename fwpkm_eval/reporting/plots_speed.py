"""The plots of what the operations cost: how many times as fast as the dense reference, and as a peer."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import scales, style
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.tables_bench import PASSES, operation_in_words, words_of
from fwpkm_eval.reporting.tables_speed import Speedup, absent, ratio_text, speedups

if TYPE_CHECKING:
    import pandas

_OVER_PEER = "over peer "
"""How ratios to another package's layer begin; all others are to our dense reference."""


def speed_plots(frame: pandas.DataFrame) -> list[Plot]:
    """Ratios to the reference, and how the time of a token grows."""
    return [*_ratio_plots(frame), *_scaling_plot(frame)]


def _scaling_plot(frame: pandas.DataFrame) -> list[Plot]:
    """Microseconds a token over slots, and over tokens."""
    rows = frame[(frame["task"] == "bench") & (frame["metric"] == "seconds_per_token_forward")].to_dict("records")
    rows = [row for row in rows if not words_of(str(row["dataset"]))]
    subkeys = [int(str(row["dataset"]).split(",")[0].removeprefix("S ")) for row in rows]
    lengths = [int(row["length"]) for row in rows]
    if len(set(subkeys)) < 2 or len(set(lengths)) < 2:
        return []
    usual_subkeys, usual_length = (statistics.mode(values) for values in (subkeys, lengths))
    points = [(s, t, row) for s, t, row in zip(subkeys, lengths, rows, strict=True)]
    over_slots = {s**2: row for s, t, row in points if t == usual_length}
    over_tokens = {t: row for s, t, row in points if s == usual_subkeys}
    figure, grid = style.new_figure(1, 2, 1.9, sharey=True)
    bounded = [row for row in rows if not (absent(row["ci_low"]) or absent(row["ci_high"]))]
    top = max([row["value"] for row in rows] + [row["ci_high"] for row in bounded]) * 1e6
    for axes, line, label in zip(grid[0], (over_slots, over_tokens), ("slots", "tokens"), strict=True):
        places = sorted(line)
        axes.plot(places, [line[x]["value"] * 1e6 for x in places], marker="o", markersize=3, color=style.BAR)
        for x in places:
            if line[x] in bounded:
                axes.vlines(x, line[x]["ci_low"] * 1e6, line[x]["ci_high"] * 1e6, color=style.BAR, linewidth=0.9)
        scales.size_axis(axes.xaxis, places)
        axes.set_ylim(0, top * 1.08)
        axes.set_xlabel(label)
    grid[0][0].set_ylabel("microseconds a token")
    return [
        style.finish(
            figure,
            "speed-scaling",
            "Time of a token over slots and tokens",
            "The scan in place, forward, at sizes that differ in one thing alone: the median of the calls"
            f"{', bars from their 10th to their 90th percentile' if bounded else ''}.",
        )
    ]


def _ratio_plots(frame: pandas.DataFrame) -> list[Plot]:
    """Ratios to the reference, and in a figure of their own those to a peer's layer."""
    found = speedups(frame)
    peers = [speedup for speedup in found if speedup.what.startswith(_OVER_PEER)]
    return [
        *_points(
            [speedup for speedup in found if speedup not in peers],
            "speed",
            "Speed against the reference",
            "Ratios from one run on one machine, whose outputs were first checked against each other.",
            "times as fast as the reference",
        ),
        *_points(
            [replace(speedup, what=speedup.what.removeprefix(_OVER_PEER)) for speedup in peers],
            "speed-peer",
            "Speed of our layer against a peer's",
            "Ratios from one run on one machine. The peer's algorithm differs in details: outputs do not compare.",
            "times as fast as the peer's layer",
        ),
    ]


def _points(found: Sequence[Speedup], name: str, title: str, caption: str, label: str) -> list[Plot]:
    """One panel for each part that was timed, one point with its percentiles for each operation or backend."""
    if not found:
        return []
    ratios = [ratio for s in found for ratio in (s.ratio, s.low, s.high) if ratio is not None and ratio > 0]
    panels = list(dict.fromkeys(speedup.what for speedup in found))
    lines = [[speedup.name for speedup in found if speedup.what == what] for what in panels]
    height = 0.45 + sum(0.28 + 0.2 * len(names) for names in lines)
    ratio = [len(names) + 0.5 for names in lines]
    figure, grid = style.new_figure(len(panels), 1, height, sharex=True, height_ratios=ratio)
    for what, names, (axes,) in zip(panels, lines, grid, strict=True):
        for speedup in (speedup for speedup in found if speedup.what == what):
            at = names.index(speedup.name)
            if speedup.low and speedup.high:
                axes.hlines(at, speedup.low, speedup.high, color=style.BAR, linewidth=1.2, alpha=0.6, zorder=2)
            axes.plot(speedup.ratio, at, "o", color=style.BAR, zorder=3)
            axes.annotate(
                ratio_text(speedup.ratio),
                (max(speedup.high or 0, speedup.ratio), at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
            )
        axes.set_xscale("log")
        scales.times_axis(axes.xaxis)
        axes.set_xlim(min(0.8, min(ratios) / 1.5), max(*ratios, 2.0) * 3)
        axes.axvline(1, color=style.MUTED, linewidth=0.8)
        axes.set_yticks(range(len(names)), [operation_in_words(name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_title(PASSES.get(what.replace(" ", "_"), what) or "speed", loc="left", fontweight="bold")
    grid[-1][0].set_xlabel(label)
    if any(speedup.low and speedup.high for speedup in found):
        caption += " Points: ratios of medians; bars: between the ratios of opposite 10th and 90th percentiles."
    return [style.finish(figure, name, title, caption)]
