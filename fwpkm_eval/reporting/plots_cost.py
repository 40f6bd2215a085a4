"""The plot of what memory costs: every model against the same backbone without memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import scales, style
from fwpkm_eval.reporting.measurements import ordered
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.tables_cost import MEASURES, Cost, cost_ratios
from fwpkm_eval.reporting.tables_speed import ratio_text

if TYPE_CHECKING:
    import pandas


def cost_plots(frame: pandas.DataFrame, colours: Mapping[str, str]) -> list[Plot]:
    """One line for each measure and model: how many times the baseline's cost."""
    ratios = cost_ratios(frame)
    measures = [name for name in MEASURES if any(name in found for found in ratios.values())]
    if not measures:
        return []
    models = ordered(ratios)
    lines = len(models) + 0.8
    height = 0.65 + 0.13 * -(-len(models) // 2) + 0.115 * lines * len(measures)
    figure, ((axes,),) = style.new_figure(1, 1, height)
    markers = style.markers(colours)
    values = [end for found in ratios.values() for cost in found.values() for end in _ends(cost)]
    for group, name in enumerate(measures):
        for at, model in enumerate(models):
            cost, place = ratios[model].get(name), group * lines + at
            if cost is None:
                continue
            ratio, ends = cost.value, _ends(cost)
            axes.hlines(place, 1, ratio, color=colours[model], linewidth=1.2, alpha=0.6, zorder=2)
            if len(ends) > 1:
                axes.hlines(place, min(ends), max(ends), color=colours[model], linewidth=3, alpha=0.4, zorder=2)
            axes.plot(ratio, place, markers[model], color=colours[model], markersize=4, zorder=3)
            axes.annotate(
                ratio_text(ratio),
                (max(ends) if ratio >= 1 else min(ends), place),
                xytext=(4 if ratio >= 1 else -4, 0),
                textcoords="offset points",
                ha="left" if ratio >= 1 else "right",
                va="center",
                fontsize=6.5,
            )
    axes.axvline(1, color=style.MUTED, linewidth=0.8, zorder=1)
    axes.set_xscale("log")
    scales.times_axis(axes.xaxis)
    low, high = min(1.0, *values), max(1.0, *values)
    room = (high / low) ** 0.14 if high > low else 1.5
    axes.set_xlim(low / (room if low < 1 else room**0.3), high * room)
    middle = (len(models) - 1) / 2
    axes.set_yticks([group * lines + middle for group in range(len(measures))], measures)
    axes.set_ylim(len(measures) * lines - 1.2, -0.9)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("times the same backbone without memory")
    style.legend_of_models(figure, models, colours)
    by_turns = any(cost.low is not None for found in ratios.values() for cost in found.values())
    timing = (
        "times by turns with the backbone, their bars from the 10th to the 90th percentile of the turns"
        if by_turns
        else "measured once: they have no interval"
    )
    return [
        style.finish(
            figure,
            "cost",
            "What memory costs",
            "More than 1× costs more than the baseline. Fast weights count as parameters; active are those that one "
            f"token touches. FLOPs by formula; time and memory of one process, writes included, {timing}.",
        )
    ]


def _ends(cost: Cost) -> list[float]:
    """The value, and the percentiles if there are any."""
    return [end for end in cost if end is not None]
