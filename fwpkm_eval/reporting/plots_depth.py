"""Heat maps of the needle task: needles found by depth and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import captions_niah as captions
from fwpkm_eval.reporting import style, wording
from fwpkm_eval.reporting.measurements import (
    Context,
    Measurement,
    NiahResults,
    alike,
    chunk_order,
    usual_needles,
    usual_settings,
    writes,
)
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def depth_plot(results: NiahResults, context: Context) -> Plot | None:
    """Heat maps depth × length: one row per model and write chunk, one column per number of readings."""
    all_depths = results.depths.get(context, {})
    needles = usual_needles(results.overall[context])
    panels: dict[tuple[str, str], dict[int, dict[tuple[int, float], Measurement]]] = {}
    left_out: dict[str, float] = {}
    for model in results.models(context):
        found = {key: m for key, m in all_depths.get(model, {}).items() if key[0].needles == needles}
        if found and not writes(model) and alike(results.overall[context][model]):
            left_out[model] = max(m.value for s, m in results.overall[context][model].items() if s.needles == needles)
            continue
        for (setting, depth), measurement in found.items():
            by_passes = panels.setdefault((model, setting.write_chunk), {})
            by_passes.setdefault(setting.passes, {})[setting.length, depth] = measurement
    if not panels:
        return None
    order = list(results.models(context))
    rows = sorted(panels, key=lambda key: (order.index(key[0]), chunk_order(key[1])))
    passes = sorted({n for by_passes in panels.values() for n in by_passes})
    counts = sorted({m.n for by in panels.values() for cells in by.values() for m in cells.values() if m.n})
    name = wording.context_name(context, list(results.overall))
    caption = f"{captions.meaning(context)} {captions.needles(usual_settings(results, context))} "
    caption += "Grey: no needle lay there, or it was not measured."
    if counts:
        span = f"{counts[0]}{f' to {counts[-1]}' if counts[-1] > counts[0] else ''}"
        caption += f" Each field is the mean of {span} sample{'s' if counts[-1] > 1 else ''}: look for patterns, "
        caption += "not at single fields."
    caption += captions.left_out(left_out)
    return style.finish(
        _draw_depths(panels, rows, passes),
        slug("niah-depth", captions.of_file(results, context)),
        f"Needles found by depth and length, {name}",
        caption,
    )


def _draw_depths(
    panels: Mapping[tuple[str, str], Mapping[int, Mapping[tuple[int, float], Measurement]]],
    rows: Sequence[tuple[str, str]],
    passes: Sequence[int],
) -> Figure:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    cells = [cells for by_passes in panels.values() for cells in by_passes.values()]
    lengths = sorted({length for found in cells for length, _ in found})
    depths = sorted({depth for found in cells for _, depth in found})
    ramp = LinearSegmentedColormap.from_list("recall", ["#f3ead7", "#7fb8c9", "#0071b1", "#0b2f52"], N=40)
    figure, grid = style.new_figure(len(rows), len(passes), 1.0 + 1.02 * len(rows), sharex=True, sharey=True)
    for key, line in zip(rows, grid, strict=True):
        for number, axes in zip(passes, line, strict=True):
            found = panels[key].get(number, {})
            values = np.full((len(depths), len(lengths)), np.nan)
            for (length, depth), measurement in found.items():
                values[depths.index(depth), lengths.index(length)] = measurement.value * 100
            axes.set_facecolor(style.GRID)
            mesh = axes.pcolormesh(
                np.arange(len(lengths) + 1),
                np.linspace(0, 100, len(depths) + 1),
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
            if len(lengths) * len(passes) > 9:
                axes.tick_params(axis="x", rotation=90)
        model, write_chunk = key
        style.row_title(line[0], model, wording.writing(write_chunk).removesuffix(" tokens"))
    for number, axes in zip(passes, grid[0], strict=True):
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
