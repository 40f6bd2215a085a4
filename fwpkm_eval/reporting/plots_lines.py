"""Lines of needles found with their intervals; points of one place stand side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import style
from fwpkm_eval.reporting.measurements import Measurement, Setting

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = Mapping[Setting, Measurement]
NEAR, APART = 0.62, 0.06
"""Points of one place fill at most this share of the way to the next place; from one to the next they stand at most
this share of the axis apart."""


def draw_line(
    axes: Axes,
    chosen: Found,
    x: Callable[[Setting], int],
    colour: str,
    shift: float = 0.0,
    marker: str = "o",
    opacity: float = 1.0,
) -> None:
    """One line with an upright bar for each interval, left out along 0 and 100%; ``shift`` moves it sideways, in
    octaves, and nothing moves it up or down."""
    if not chosen:
        return
    settings = sorted(chosen, key=x)
    places = [moved(x(setting), shift) for setting in settings]
    found = [chosen[setting] for setting in settings]
    bounded = [(at, m) for at, m in zip(places, found, strict=True) if m.low is not None]
    axes.vlines(
        [at for at, _ in bounded],
        [(m.low or 0.0) * 100 for _, m in bounded],
        [(1.0 if m.high is None else m.high) * 100 for _, m in bounded],
        color=colour,
        alpha=0.6 * opacity,
        linewidth=0.9,
        zorder=2,
    )
    values = [measurement.value * 100 for measurement in found]
    for (at, before), (then, after) in pairwise(zip(places, values, strict=True)):
        # Along 0 and 100% the lines of many models would lie on each other, and hide the models'.
        if before != after or 0 < before < 100:
            axes.plot(
                [at, then], [before, after], color=colour, alpha=0.6 * opacity, linewidth=0.9, zorder=2.5, clip_on=False
            )
    axes.plot(
        places,
        values,
        color=colour,
        alpha=opacity,
        linestyle="",
        marker=marker,
        markeredgecolor=style.CARD,
        markeredgewidth=0.5,
        clip_on=False,
        zorder=3,
    )


def moved(place: int, octaves: float) -> float:
    """Where a point of ``place`` stands if it is moved; on the axis from 0 to 1 is as far as two octaves."""
    return place * 2**octaves if place else octaves / 2


def shifts_of(count: int, places: Sequence[int]) -> list[float]:
    """How far, in octaves, each of ``count`` lines is moved so that their points at ``places`` stand side by side."""
    listed = sorted(set(places))
    gaps = [math.log2(after / before) if before else 2 + math.log2(after) for before, after in pairwise(listed)]
    if count < 2 or not gaps:
        return [0.0] * count if count < 2 else [0.1 * (at - (count - 1) / 2) for at in range(count)]
    step = min(NEAR * min(gaps) / (count - 1), APART * sum(gaps))
    return [step * (at - (count - 1) / 2) for at in range(count)]


def mark_places(axes: Axes, places: Sequence[int], shifts: Sequence[float]) -> None:
    """A pale column behind the points of each place, in place of a line through its middle."""
    if len(shifts) < 2:
        return
    beyond = (shifts[1] - shifts[0]) * 0.8
    for place in places:
        axes.axvspan(
            moved(place, shifts[0] - beyond),
            moved(place, shifts[-1] + beyond),
            color=style.GRID,
            alpha=0.4,
            linewidth=0,
        )
    axes.grid(False, axis="x")
