"""Heat maps of the needle task: needles found by depth and length."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import captions_niah as captions
from fwpkm_eval.reporting import style, wording
from fwpkm_eval.reporting.measurements import (
    Context,
    Measurement,
    NiahResults,
    Setting,
    alike,
    chunk_order,
    usual_needles,
    usual_settings,
    writes,
)
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import slug

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FEWEST = 3
"""Samples that a field needs to be drawn."""
PARTS = (10, 5)
"""Into how many parts of its length a haystack is cut: as rows have it, or else each two of them together."""

Fields = dict[tuple[int, int], Measurement]
"""By length and number of the part."""
ByDepth = Mapping[tuple[Setting, float], Measurement]


@dataclass(frozen=True)
class _Row:
    """A row of panels, by readings. ``write_chunk`` is None where neither readings nor writes change anything: there is
    one panel then, of number 0."""

    model: str
    write_chunk: str | None
    panels: Mapping[int, Fields]

    @property
    def values(self) -> set[float]:
        return {m.value for fields in self.panels.values() for m in fields.values()}


def depth_plot(results: NiahResults, context: Context) -> Plot | None:
    """Heat maps depth × length: one row per model and write chunk, one column per number of readings.

    Rows that are all alike (all is found, or nothing) are told of in the caption.
    """
    parts = _parts(results, context)
    if parts is None:
        return None
    rows = [row for row in _rows(results, context, parts) if row.values]
    drawn = [row for row in rows if row.values not in ({0.0}, {1.0})]
    if not drawn:
        return None
    counts = {m.n for row in drawn for fields in row.panels.values() for m in fields.values() if m.n}
    name = wording.context_name(context, list(results.overall))
    asked = captions.needles(results, context, usual_settings(results, context))
    caption = f"{captions.meaning(context)} {asked} "
    if counts:
        caption += f"Each field is the mean of {captions.span(counts)} samples with the needle in one "
        caption += f"{'tenth' if parts == PARTS[0] else 'fifth'} of the haystack: look for patterns, not at single "
        caption += "fields. "
    caption += f"Grey: fewer than {FEWEST} samples, or not measured."
    return style.finish(
        _draw_depths(drawn, parts),
        slug("niah-depth", captions.of_file(results, context)),
        f"Needles found by depth and length, {name}",
        caption + _lengths_left_out(results, context, rows) + _same_at_all_depths(rows),
    )


def too_few_to_draw(results: NiahResults, context: Context) -> bool:
    """Whether there are measurements by depth, but nowhere enough samples of one depth to draw them."""
    return bool(_usual_depths(results, context)) and _parts(results, context) is None


def _usual_depths(results: NiahResults, context: Context) -> dict[str, ByDepth]:
    """The measurements by depth with the usual number of needles, for each model that has some."""
    needles = usual_needles(results.overall[context])
    all_depths = results.depths.get(context, {})
    chosen = {
        model: {key: m for key, m in all_depths.get(model, {}).items() if key[0].needles == needles}
        for model in results.models(context)
    }
    return {model: found for model, found in chosen.items() if found}


def _parts(results: NiahResults, context: Context) -> int | None:
    """The most parts with which haystacks of all lengths have enough samples, else the fewest, if some length has."""
    most, fewest = PARTS
    if all(_enough(results, context, most).values()):
        return most
    return fewest if any(_enough(results, context, fewest).values()) else None


def _enough(results: NiahResults, context: Context, parts: int) -> dict[int, bool]:
    """For each length whether at least two thirds of its fields have enough samples."""
    counts: dict[int, list[int]] = defaultdict(list)
    for row in _rows(results, context, parts, fewest=0):
        for fields in row.panels.values():
            for (length, _), measurement in fields.items():
                counts[length].append(FEWEST if measurement.n is None else measurement.n)
    return {length: 3 * sum(n >= FEWEST for n in of) >= 2 * len(of) for length, of in counts.items()}


def _rows(results: NiahResults, context: Context, parts: int, fewest: int = FEWEST) -> list[_Row]:
    rows = []
    for model, found in _usual_depths(results, context).items():
        by_chunk: dict[str | None, dict[int, dict[tuple[Setting, float], Measurement]]] = {}
        if not writes(model) and alike(results.overall[context][model]):
            once = {(setting.length, depth): setting for setting, depth in found}
            by_chunk[None] = {0: {key: m for key, m in found.items() if once[key[0].length, key[1]] == key[0]}}
        else:
            for key, measurement in found.items():
                panels = by_chunk.setdefault(key[0].write_chunk, {})
                panels.setdefault(key[0].passes, {})[key] = measurement
        for write_chunk in sorted(by_chunk, key=lambda chunk: chunk_order(chunk or "")):
            panels_of = {passes: _pooled(panel, parts, fewest) for passes, panel in by_chunk[write_chunk].items()}
            rows.append(_Row(model, write_chunk, {passes: fields for passes, fields in panels_of.items() if fields}))
    return rows


def _pooled(found: ByDepth, parts: int, fewest: int) -> Fields:
    """The measurements of each part of the haystack as one, as far as they are of enough samples."""
    grouped: dict[tuple[int, int], list[Measurement]] = defaultdict(list)
    for (setting, depth), measurement in found.items():
        grouped[setting.length, min(int(depth * parts), parts - 1)].append(measurement)
    pooled = {place: _together(measured) for place, measured in grouped.items()}
    return {place: m for place, m in pooled.items() if m.n is None or m.n >= fewest}


def _together(measured: Sequence[Measurement]) -> Measurement:
    if len(measured) == 1:
        return measured[0]
    total = sum(m.n or 1 for m in measured)
    return Measurement(sum(m.value * (m.n or 1) for m in measured) / total, total)


def _same_at_all_depths(rows: Sequence[_Row]) -> str:
    """Of which models nothing is drawn, as they find all or nothing everywhere."""
    parts = []
    for value, words in ((0.0, "none found by"), (1.0, "all found by")):
        models: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row.values == {value}:
                models[row.model].append(wording.writing(row.write_chunk) if row.write_chunk else "")
        names = [
            model if len(ways) == sum(row.model == model for row in rows) else f"{model} ({wording.listing(ways)})"
            for model, ways in models.items()
        ]
        parts += [f"{words} {wording.listing(names)}"] if names else []
    return f" Not drawn, as depth makes no difference there: {'; '.join(parts)}." if parts else ""


def _lengths_left_out(results: NiahResults, context: Context, rows: Sequence[_Row]) -> str:
    measured = {key[0].length for found in _usual_depths(results, context).values() for key in found}
    gone = measured - _lengths(rows)
    sizes = wording.listing([wording.size(n) for n in sorted(gone)])
    return f" Left out, with too few samples of one depth: {sizes}." if gone else ""


def _lengths(rows: Iterable[_Row]) -> set[int]:
    return {length for row in rows for fields in row.panels.values() for length, _ in fields}


def _draw_depths(rows: Sequence[_Row], parts: int) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap

    lengths = sorted(_lengths(rows))
    passes = sorted({number for row in rows if row.write_chunk is not None for number in row.panels})
    columns = len(passes) or 1
    ramp = LinearSegmentedColormap.from_list("recall", ["#f3ead7", "#7fb8c9", "#0071b1", "#0b2f52"], N=40)
    figure, grid = style.new_figure(len(rows), columns, 1.0 + 1.02 * len(rows), sharex=True, sharey=True)
    for row, line in zip(rows, grid, strict=True):
        numbers = passes if row.write_chunk is not None else [0]
        for at, axes in enumerate(line):
            fields = row.panels.get(numbers[at], {}) if at < len(numbers) else {}
            mesh = _heat_map(axes, fields, lengths, parts, ramp)
            if len(lengths) * columns > 9:
                axes.tick_params(axis="x", rotation=90)
            if not fields:
                style.leave_out(axes)
        how = "readings and writes change nothing"
        if row.write_chunk is not None:
            how = wording.writing(row.write_chunk).removesuffix(" tokens")
        style.row_title(line[0], row.model, how)
    style.label_edges(grid)
    for number, axes in zip(passes, grid[0], strict=False):  # none if readings change nothing for all
        style.heading(axes, wording.readings(number))
    figure.supxlabel("haystack length, tokens", fontsize=7.5)
    # Above the panels, as legends are: titles of rows reach over the edge on the right.
    panels_of_all = [axes for line in grid for axes in line]
    bar = figure.colorbar(mesh, ax=panels_of_all, location="top", shrink=0.6, aspect=30, pad=0.05)
    bar.set_label("needles found", fontsize=7.5)
    bar.solids.set_edgecolor("face")  # type: ignore[union-attr]  # no hair lines between the steps
    bar.set_ticks([0, 50, 100], labels=["0", "50", "100%"])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return figure


def _heat_map(axes: Axes, fields: Fields, lengths: Sequence[int], parts: int, ramp: Colormap) -> QuadMesh:
    import numpy as np

    values = np.full((parts, len(lengths)), np.nan)
    for (length, part), measurement in fields.items():
        values[part, lengths.index(length)] = measurement.value * 100
    axes.set_facecolor(style.GRID)
    mesh = axes.pcolormesh(
        np.arange(len(lengths) + 1),
        np.linspace(0, 100, parts + 1),
        np.ma.masked_invalid(values),
        cmap=ramp,
        vmin=0,
        vmax=100,
        edgecolors=style.CARD,
        linewidth=0.5,
    )
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_ylim(100, 0)
    axes.set_yticks([0, 50, 100], ["start", "middle", "end"])
    axes.set_xticks(np.arange(len(lengths)) + 0.5, [wording.size(length) for length in lengths])
    return mesh
