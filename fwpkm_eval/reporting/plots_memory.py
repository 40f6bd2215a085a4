"""Plots of what goes on inside the memories: how far their gates are open, and how evenly their slots are used."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import scales, style, wording
from fwpkm_eval.reporting.measurements import Measurement
from fwpkm_eval.reporting.measurements_memory import Place, by_layer, gate_histograms, layer_name
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import slug

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

ABREAST = 4
"""Sets beside each other in one figure."""

USES = (
    ("collision_rate", "collisions"),
    ("coverage", "coverage"),
    ("kl_to_uniform", "KL, nats"),
)
"""The measures of how evenly slots are used, and what stands under their panels."""

Memory = tuple[str, int, str]


def memory_plots(frame: pandas.DataFrame, colours: Mapping[str, str]) -> list[Plot]:
    """All plots of gates and addressing that the rows have measurements for."""
    return [*_gate_plots(frame, colours), *_addressing_plots(frame, colours)]


def _gate_plots(frame: pandas.DataFrame, colours: Mapping[str, str]) -> list[Plot]:
    """A histogram for each memory layer (rows) and set (columns), a few sets to a figure."""
    histograms = gate_histograms(frame)
    means = {place: found["gate_mean"] for place, found in by_layer(frame, "gates").items() if "gate_mean" in found}
    datasets = list(dict.fromkeys(sorted(place.dataset for place in histograms)))
    plots = []
    for number, first in enumerate(range(0, len(datasets), ABREAST), 1):
        here = datasets[first : first + ABREAST]
        chosen = {place: shares for place, shares in histograms.items() if place.dataset in here}
        plots.append(_gates(chosen, means, here, colours, str(number) if len(datasets) > ABREAST else ""))
    return plots


def _gates(
    histograms: Mapping[Place, Mapping[float, float]],
    means: Mapping[Place, Measurement],
    datasets: Sequence[str],
    colours: Mapping[str, str],
    number: str,
) -> Plot:
    memories = list(dict.fromkeys(place.memory for place in histograms))
    height = 0.6 + 0.86 * len(memories)
    figure, grid = style.new_figure(len(memories), len(datasets), height, sharex=True, sharey="row")
    for memory, line in zip(memories, grid, strict=True):
        for dataset, axes in zip(datasets, line, strict=True):
            place = Place(memory[0], memory[1], dataset, memory[2])
            if place in histograms:
                _histogram(axes, histograms[place], means.get(place), colours[place.model])
            else:
                style.leave_out(axes)
        line[0].set_ylim(0, None)
        line[0].locator_params(axis="y", nbins=3)
        line[0].yaxis.set_major_formatter(scales.percents())
        style.row_title(line[0], memory[0], layer_name(memory, memories))
    style.label_edges(grid)
    for dataset, axes in zip(datasets, grid[0], strict=True):
        style.heading(axes, style.shortened(dataset, 46 // len(datasets)))
    figure.supxlabel("gate: 0 memory unused, 1 memory alone", fontsize=7.5)
    figure.supylabel("share of tokens", fontsize=7.5)
    bins = _most(map(len, histograms.values()))
    return style.finish(
        figure,
        slug("gates", number),
        f"Gates of the memory layers{f', part {number}' if number else ''}",
        f"The share of a set's tokens whose gate lies in each of {bins} equal bins; line and number: the mean gate. "
        f"{_counted([means[place] for place in histograms if place in means])}; every token is counted, so there is "
        "no interval. Panels of one row share their scale, rows do not.",
    )


def _histogram(axes: Axes, shares: Mapping[float, float], mean: Measurement | None, colour: str) -> None:
    middles = list(shares)
    width = min((b - a for a, b in itertools.pairwise(middles)), default=0.05)
    axes.bar(middles, [share * 100 for share in shares.values()], width=width, color=colour, alpha=0.75, linewidth=0)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.grid(False, axis="x")
    if mean is None:
        return
    axes.axvline(mean.value, color=style.INK, linewidth=0.8)
    left = mean.value > 0.5
    axes.annotate(
        f"{mean.value:.2f}",
        (mean.value, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-2 if left else 2, -1),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=6.5,
        bbox={"facecolor": style.CARD, "alpha": 0.7, "linewidth": 0, "pad": 0.3},
    )


def _addressing_plots(frame: pandas.DataFrame, colours: Mapping[str, str]) -> list[Plot]:
    """For each memory layer a row of three panels: collisions, coverage and KL, a line for each set in each."""
    from matplotlib.lines import Line2D

    found = by_layer(frame, "addressing")
    if not found:
        return []
    memories = list(dict.fromkeys(place.memory for place in found))
    sets = {memory: [place.dataset for place in found if place.memory == memory] for memory in memories}
    most = max(map(len, sets.values()))
    height = 1.0 + len(memories) * (0.3 + 0.17 * most)
    heights = [len(datasets) + 0.2 for datasets in sets.values()]
    figure, grid = style.new_figure(len(memories), len(USES), height, sharex="col", sharey="row", height_ratios=heights)
    highest = max((m.value for place in found.values() for name, m in place.items() if "kl" in name), default=1.0)
    for memory, line in zip(memories, grid, strict=True):
        for (metric, _), axes in zip(USES, line, strict=True):
            for at, dataset in enumerate(sets[memory]):
                measured = found[Place(memory[0], memory[1], dataset, memory[2])]
                _use(axes, at, measured.get(f"chunk_{metric}"), measured.get(metric), colours[memory[0]])
            if metric == "kl_to_uniform":
                axes.set_xlim(-0.05 * highest, 1.12 * highest)
                axes.locator_params(axis="x", nbins=4)
            else:
                axes.set_xlim(-0.07, 1.07)
                axes.set_xticks([0, 0.5, 1], ["0", "50", "100%"])
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0)
        line[0].set_yticks(range(len(sets[memory])), [style.shortened(name, 14) for name in sets[memory]])
        line[0].set_ylim(len(sets[memory]) - 0.4, -0.6)
        style.row_title(line[0], memory[0], layer_name(memory, memories))
    for (_, title), axes in zip(USES, grid[-1], strict=True):
        axes.set_xlabel(title)
    marks = [
        Line2D([], [], color=style.INK, linestyle="", marker="o", markersize=4.5, label="one write"),
        Line2D([], [], color=style.INK, linestyle="", marker="o", markersize=4.5, label="the whole set"),
    ]
    marks[1].set_markerfacecolor(style.CARD)
    figure.legend(handles=marks, loc="outside upper center", ncols=2)
    single = [measured[name] for measured in found.values() for name in measured if name.startswith("chunk_")]
    return [style.finish(figure, "addressing", "Use of the slots", _addressing_caption(single))]


def _use(axes: Axes, at: int, single: Measurement | None, whole: Measurement | None, colour: str) -> None:
    """One line of a panel: a filled dot with its interval for single writes, a hollow one for the whole set."""
    for measured, face in ((whole, style.CARD), (single, colour)):
        if measured is None:
            continue
        if measured.low is not None and measured.high is not None:
            axes.hlines(at, measured.low, measured.high, color=colour, linewidth=1.2, zorder=2)
        axes.plot(measured.value, at, "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=3)


def _addressing_caption(single: Sequence[Measurement]) -> str:
    seeds = _most(m.seeds for m in single)
    interval = f"Student's over {seeds} seeds" if seeds > 1 else "over the writes"
    writes = sorted({(m.n or 0) // m.seeds for m in single})
    return (
        "Collisions: the share of reads of slots that were read more than once. Coverage: the share of slots that were "
        "read. KL: distance to even use of all slots, in nats (0 is even). Filled: a single write, the mean of "
        f"{_span(writes)} writes{f' and {seeds} seeds' if seeds > 1 else ''}, with its 95% interval {interval} (often "
        "smaller than the dot). Hollow: all writes of the set together. A write of few reads cannot cover much, nor "
        "come near 0 nats."
    )


def _counted(found: Sequence[Measurement]) -> str:
    """``16,384 tokens per panel, one seed``, or of how many seeds it is the mean."""
    seeds = _most(m.seeds for m in found)
    tokens = _span(sorted({(m.n or 0) // m.seeds for m in found}))
    return f"{tokens} tokens per panel{f' and seed, the mean of {seeds} seeds' if seeds > 1 else ', one seed'}"


def _span(counts: Sequence[int]) -> str:
    """``128``, ``100 to 128``."""
    if not counts:
        return "no"
    shown = [wording.grouped(count) for count in (counts[0], counts[-1])]
    return shown[0] if counts[0] == counts[-1] else " to ".join(shown)


def _most(numbers: Iterable[int]) -> int:
    return max(numbers, default=1)
