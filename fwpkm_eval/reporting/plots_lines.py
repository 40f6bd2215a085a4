"""Lines of needles found with their bands, set so that none hides another."""

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
BESIDE = 1.5
"""Points between the middles of lines that coincide: a line's width."""


def draw_line(
    axes: Axes,
    chosen: Found,
    x: Callable[[Setting], int],
    colour: str,
    shift: float = 0.0,
    marker: str = "o",
    opacity: float = 1.0,
    lift: float = 0.0,
) -> None:
    """One line with its band; ``shift`` moves it sideways, in octaves, and ``lift`` the line alone upwards, in points,
    so that equal lines are all seen."""
    from matplotlib.transforms import ScaledTranslation

    if not chosen:
        return
    settings = sorted(chosen, key=x)
    places = [x(setting) * 2**shift for setting in settings]
    axes.plot(
        places,
        [chosen[setting].value * 100 for setting in settings],
        color=colour,
        alpha=opacity,
        marker=marker,
        markeredgecolor=style.CARD,
        markeredgewidth=0.5,
        clip_on=False,
        zorder=3,
        transform=axes.transData + ScaledTranslation(0, lift / 72, axes.figure.dpi_scale_trans),
    )
    bounded = [(at, m) for at, m in zip(places, (chosen[s] for s in settings), strict=True) if m.low is not None]
    lows = [(m.low or 0.0) * 100 for _, m in bounded]
    highs = [(1.0 if m.high is None else m.high) * 100 for _, m in bounded]
    if len(bounded) > 1:
        axes.fill_between([at for at, _ in bounded], lows, highs, color=colour, alpha=0.13 * opacity, linewidth=0)
    elif bounded:
        axes.vlines([bounded[0][0]], lows, highs, color=colour, alpha=0.5 * opacity, linewidth=1)


def shift_of(at: int, count: int, places: Sequence[int]) -> float:
    """How far, in powers of two, line ``at`` of ``count`` is moved: 2.2% of the axis from one to the next."""
    octaves = math.log2(max(places) / min(places)) if min(places) > 0 else 1.0
    return 0.022 * max(octaves, 1.0) * (at - (count - 1) / 2)


def lifts_of(lines: Sequence[Found], x: Callable[[Setting], int]) -> list[float]:
    """For each line of a panel by how many points it is lifted: those that coincide somewhere lie side by side."""
    steps = []
    for found in lines:
        points = sorted((x(setting), m.value) for setting, m in found.items())
        steps.append(set(pairwise(points)))
    groups: list[list[int]] = []
    for at, of_line in enumerate(steps):
        group = next((group for group in groups if any(of_line & steps[other] for other in group)), None)
        if group is None:
            groups.append([at])
        else:
            group.append(at)
    lifts = [0.0] * len(lines)
    for group in groups:
        for place, at in enumerate(group):
            lifts[at] = BESIDE * ((len(group) - 1) / 2 - place)
    return lifts
