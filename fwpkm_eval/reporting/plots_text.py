"""Plots of the perplexity task: bits per byte by model and set, and by position in the document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import scales, style, wording
from fwpkm_eval.reporting.measurements import Measurement, TextKey, TextResult, ordered, spec_of, writes
from fwpkm_eval.reporting.published import memories_of
from fwpkm_eval.reporting.sets import SetFacts
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import slug
from fwpkm_eval.reporting.tables_text import frozen_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Results = Mapping[TextKey, TextResult]

Curve = dict[int, float]
"""Bits per byte by position."""
EQUAL = 0.06
"""Bits per byte within which a model's curve with writes off says no more than that with writes."""
LEAST_SPAN = 0.1
"""Bits per byte an axis spans at least: a difference in the third decimal does not fill a plot."""

_DASHED = (0, (3, 1.5))


Floors = Mapping[tuple[str, str], Mapping[str, Measurement]]
"""Bits per byte of general compressors, by set and scope."""


def text_plots(
    results: Results, colours: Mapping[str, str], sets: SetFacts, floors: Floors | None = None
) -> list[Plot]:
    """All plots of the perplexity task that there are measurements for, for each scope."""
    plots: list[Plot | None] = []
    scopes = list(dict.fromkeys(key.scope for key in results))
    for scope in scopes:
        here = {key: value for key, value in results.items() if key.scope == scope}
        suffix = scope if len(scopes) > 1 else ""
        below = {dataset: found for (dataset, of), found in (floors or {}).items() if of == scope}
        plots += [_bits_plot(here, colours, sets, suffix, below), _position_plot(here, colours, sets, suffix)]
    return [plot for plot in plots if plot is not None]


def _bits_plot(
    results: Results,
    colours: Mapping[str, str],
    sets: SetFacts,
    suffix: str,
    floors: Mapping[str, Mapping[str, Measurement]],
) -> Plot | None:
    """For each set a line per model, filled as it reads, hollow with writes off; and one of the best compressor."""
    measured = {key: r.bits_per_byte for key, r in results.items() if r.bits_per_byte and not key.frozen}
    datasets = list(dict.fromkeys(key.dataset for key in measured))
    if not datasets:
        return None
    per_set = {dataset: [key for key in measured if key.dataset == dataset] for dataset in datasets}
    lines = max(len(keys) for keys in per_set.values()) + bool(floors)
    figure, grid = style.new_figure(len(datasets), 1, 0.55 + len(datasets) * (0.3 + 0.17 * lines))
    for dataset, (axes,) in zip(datasets, grid, strict=True):
        keys = sorted(per_set[dataset], key=lambda key: ordered([k.model for k in measured]).index(key.model))
        values = []
        for at, key in enumerate(keys):
            bits, frozen, colour = measured[key], frozen_of(key, results), colours[key.model]
            values += [bits.value, *([frozen.value] if frozen else [])]
            if frozen and writes(key.model):
                axes.plot([bits.value, frozen.value], [at, at], color=colour, linewidth=1.2, alpha=0.6, zorder=2)
                axes.plot(frozen.value, at, "o", color=colour, markerfacecolor=style.CARD, markersize=5, zorder=3)
            axes.plot(bits.value, at, "o", color=colour, markersize=5.5, zorder=4)
            _value_beside(axes, bits.value, min(bits.value, frozen.value) if frozen else bits.value, at)
        names = [key.model for key in keys]
        if dataset in floors:
            best, least = min(floors[dataset].items(), key=lambda floor: floor[1].value)
            axes.plot(least.value, len(names), "x", color=style.MUTED, markersize=5, markeredgewidth=1.5, zorder=4)
            _value_beside(axes, least.value, least.value, len(names))
            names.append(f"{best}, no model")
            values.append(least.value)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        span = max(max(values) - min(values), LEAST_SPAN)
        axes.set_xlim(min(values) - 0.24 * span, max(values) + 0.08 * span)
        axes.locator_params(axis="x", nbins=5)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_title(sets.title(dataset), loc="left", fontweight="bold")
    grid[-1][0].set_xlabel("bits per byte (less is better)")
    return style.finish(
        figure,
        slug("bits-per-byte", suffix),
        f"Bits per byte by model and set{f', scope {suffix}' if suffix else ''}",
        "Filled: as the model reads, writing into its memory. Hollow: the same model with writes off. "
        f"{_HELD_OUT if all(map(sets.is_stand_in, datasets)) else ''}{_BELOW if floors else ''}"
        "The axes do not start at 0.",
    )


_HELD_OUT = "Documents that no model was trained on. "
"""Of the embedded sets that is so; what a model of the user's own had read before is not known here."""
_BELOW = "Cross: the general compressor that takes fewest bits for the same text. "


def _value_beside(axes: Axes, value: float, x: float, y: float) -> None:
    """The value in figures, left of a point."""
    axes.annotate(
        f"{value:.2f}", (x, y), xytext=(-5, 0), textcoords="offset points", ha="right", va="center", fontsize=7
    )


def _position_plot(results: Results, colours: Mapping[str, str], sets: SetFacts, suffix: str) -> Plot | None:
    """Per set bits per byte against the position in the document, with writes and without.

    Where a model without memory was measured, they are shown less that model's at the same position: what documents
    have to do with it, which is much more than what memories do, is then gone.
    """
    from matplotlib.lines import Line2D

    curves = {key: _values(r) for key, r in results.items() if len(r.by_position) > 1}
    # A model that does not write has no second curve to show.
    curves = {key: curve for key, curve in curves.items() if writes(key.model) or not key.frozen}
    datasets = list(dict.fromkeys(key.dataset for key in curves))
    if not datasets:
        return None
    models = ordered(key.model for key in curves)
    baseline = _baseline(curves, datasets) if len(models) > 1 else None
    if baseline:
        curves = {key: _less(curve, _of_model(curves, baseline, key.dataset)) for key, curve in curves.items()}
    curves, alike = _without_equal_frozen(curves)
    height = 0.6 + 0.16 * -(-len(models) // 2) + (1.5 if baseline else 1.3) * len(datasets)
    figure, grid = style.new_figure(len(datasets), 1, height)
    markers = style.markers(colours)
    for dataset, (axes,) in zip(datasets, grid, strict=True):
        here = {key: curve for key, curve in curves.items() if key.dataset == dataset}
        for key in sorted(here, key=lambda key: (models.index(key.model), key.frozen)):
            axes.plot(
                list(here[key]),
                list(here[key].values()),
                color=colours[key.model],
                linestyle=_DASHED if key.frozen else "-",
                marker=markers[key.model],
                markersize=2.4 if key.frozen else 3.2,
                markerfacecolor=style.CARD if key.frozen else colours[key.model],
                markeredgewidth=0.7,
                linewidth=0.8 if key.frozen else 1.2,
                zorder=2 if key.frozen else 3,
            )
        scales.size_axis(axes.xaxis, [position for curve in here.values() for position in curve], 9)
        axes.locator_params(axis="y", nbins=5)
        axes.set_title(sets.title(dataset), loc="left", fontweight="bold")
    grid[-1][0].set_xlabel("position in the document, up to … tokens")
    figure.supylabel(
        f"bits per byte less those of {style.shortened(baseline, 24)} (down: better)" if baseline else "bits per byte",
        fontsize=7.5,
    )
    off = Line2D([], [], color=style.MUTED, marker="o", markersize=3, markerfacecolor=style.CARD, label="writes off")
    off.set_linestyle(_DASHED)
    style.legend_of_models(figure, models, colours, *([off] if any(key.frozen for key in curves) else []))
    return style.finish(
        figure,
        slug("loss-by-position", suffix),
        f"Loss along a document{f', against {baseline}' if baseline else ''}{f', scope {suffix}' if suffix else ''}",
        "Each point is the mean over the tokens between half its position and its position (the first: from "
        "the start). Only long documents reach far to the right, so compare curves at one position, not "
        f"positions on a curve. These means have no interval.{_told(alike)}",
    )


def _values(result: TextResult) -> Curve:
    return {position: measurement.value for position, measurement in result.by_position.items()}


def _baseline(curves: Mapping[TextKey, Curve], datasets: Sequence[str]) -> str | None:
    """The model without memory whose backbone most models have, of those with a curve for every set."""
    models = ordered(key.model for key in curves)
    backbones = [spec_of(model).partition(":")[0] for model in models]
    plain = [
        model
        for model in models
        if not memories_of(spec_of(model)) and all(_of_model(curves, model, dataset) for dataset in datasets)
    ]
    return max(plain, key=lambda model: backbones.count(spec_of(model)), default=None)


def _of_model(curves: Mapping[TextKey, Curve], model: str, dataset: str) -> Curve:
    return next((curve for key, curve in curves.items() if (key.model, key.dataset) == (model, dataset)), {})


def _less(curve: Curve, other: Curve) -> Curve:
    return {position: value - other[position] for position, value in curve.items() if position in other}


def _without_equal_frozen(curves: Mapping[TextKey, Curve]) -> tuple[dict[TextKey, Curve], list[str]]:
    """The curves without those with writes off that are nowhere far from the same model's with writes, and whose
    these are."""

    def equal(key: TextKey) -> bool:
        read = [c for k, c in curves.items() if (k.model, k.dataset, k.frozen) == (key.model, key.dataset, False)]
        return bool(read) and all(abs(v - c.get(at, math.inf)) <= EQUAL for c in read for at, v in curves[key].items())

    frozen = [key for key in curves if key.frozen]
    models = [m for m in ordered(k.model for k in frozen) if all(equal(k) for k in frozen if k.model == m)]
    return {key: curve for key, curve in curves.items() if not (key.frozen and key.model in models)}, models


def _told(alike: Sequence[str]) -> str:
    if not alike:
        return ""
    names = wording.listing(alike)
    return f" Not drawn with writes off, as it is nowhere {EQUAL:g} bits away from the same with writes: {names}."
