"""Plots of the needle task: needles found by length, readings, depth and number of needles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fwpkm_eval.reporting import captions_niah as captions
from fwpkm_eval.reporting import scales, style, wording
from fwpkm_eval.reporting.measurements import (
    Context,
    NiahResults,
    Setting,
    alike,
    chunk_order,
    usual_settings,
    writes,
)
from fwpkm_eval.reporting.plots_depth import FEWEST, depth_plot, too_few_to_draw
from fwpkm_eval.reporting.plots_lines import Found, draw_line, mark_places, shifts_of
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.table import slug

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class _Grid:
    """A grid of panels: a row per model, a column per write chunk, and in each a line per ``line``."""

    models: Mapping[str, Found]
    chunks: Sequence[str]
    x: Callable[[Setting], int]
    line: Callable[[Setting], int]
    line_name: Callable[[int], str]
    x_label: str

    def x_values(self) -> list[int]:
        return sorted({self.x(setting) for found in self.models.values() for setting in found})

    def line_values(self) -> list[int]:
        return sorted({self.line(setting) for found in self.models.values() for setting in found})


def niah_plots(results: NiahResults, colours: Mapping[str, str]) -> list[Plot]:
    """All plots of the needle task that there are measurements for."""
    plots: list[Plot | None] = []
    for context in results.overall:
        if not results.models(context):
            continue
        plots += [
            _models_plot(results, context, colours),
            _length_plot(results, context, colours),
            _readings_plot(results, context, colours),
            _needles_plot(results, context, colours),
            depth_plot(results, context),
        ]
    return [plot for plot in plots if plot is not None]


def _models_plot(results: NiahResults, context: Context, colours: Mapping[str, str]) -> Plot | None:
    """All models in one panel per write chunk, after the most readings: the picture to remember."""
    models = usual_settings(results, context)
    lengths = sorted({setting.length for found in models.values() for setting in found})
    if len(models) < 2 or len(lengths) < 2:
        return None
    chunks = _chunks(models, lambda s: s.length)
    passes = _shared_passes(models)
    markers, shifts = style.markers(colours), shifts_of(len(models), lengths)
    height = 0.5 + 1.25 * len(chunks) + 0.13 * -(-len(models) // 2)
    figure, grid = style.new_figure(len(chunks), 1, height, sharex=True)
    for (axes,), write_chunk in zip(grid, chunks, strict=True):
        for (model, found), shift in zip(models.items(), shifts, strict=True):
            chosen = {s: m for s, m in found.items() if s.passes == passes and s.write_chunk == write_chunk}
            draw_line(axes, chosen, lambda s: s.length, colours[model], shift, markers[model])
        scales.percent_axis(axes.yaxis)
        scales.size_axis(axes.xaxis, lengths, room=shifts[-1])
        mark_places(axes, lengths, shifts)
        axes.set_title(wording.sentence(wording.writing(write_chunk)), loc="left", fontweight="bold")
    figure.supylabel("needles found", fontsize=7.5)
    grid[-1][0].set_xlabel("haystack length, tokens")
    style.legend_of_models(figure, list(models), colours)
    name = wording.context_name(context, list(results.overall))
    return style.finish(
        figure,
        slug("niah-models", captions.of_file(results, context)),
        f"All models, {name}: needles found after {wording.readings(passes)}",
        f"{captions.meaning(context)} {captions.needles(results, context, models)} {captions.samples(models)} "
        f"{captions.INTERVALS} {captions.BESIDE}{captions.shown_readings(passes, models)}",
    )


def _length_plot(results: NiahResults, context: Context, colours: Mapping[str, str]) -> Plot | None:
    models, without = _finding(usual_settings(results, context))
    name = wording.context_name(context, list(results.overall))
    lengths = {setting.length for found in models.values() for setting in found}
    passes = {setting.passes for found in models.values() for setting in found}
    if len(lengths) > 1:
        title = f"Needles found by length, {name}"
        grid = _Grid(
            models,
            _chunks(models, lambda s: s.length),
            lambda s: s.length,
            lambda s: s.passes,
            wording.readings,
            "haystack length, tokens",
        )
    elif len(passes) > 1:
        title = f"Needles found by readings, {name}"
        chunks = _chunks(models, lambda s: s.passes)
        grid = _Grid(models, chunks, lambda s: s.passes, lambda s: s.length, _tokens, "readings")
    else:
        return None
    caption = (
        f"{captions.meaning(context)} {captions.needles(results, context, models)} {captions.samples(models)} "
        f"{captions.INTERVALS} {captions.BESIDE}{captions.none_found(without)}"
    )
    if too_few_to_draw(results, context):
        caption += f" Depths are not drawn: hardly one has {FEWEST} samples."
    return style.finish(_draw(grid, colours), slug("niah-length", captions.of_file(results, context)), title, caption)


def _readings_plot(results: NiahResults, context: Context, colours: Mapping[str, str]) -> Plot | None:
    """Needles found against readings, a line for each length; with one length `_length_plot` shows just that."""
    usual, without = _finding(usual_settings(results, context))
    left_out = {
        model: max(m.value for m in found.values())
        for model, found in usual.items()
        if not writes(model) and alike(found)
    }
    models = {model: found for model, found in usual.items() if model not in left_out}
    lengths = {setting.length for found in usual.values() for setting in found}
    passes = {setting.passes for found in models.values() for setting in found}
    if len(lengths) < 2 or len(passes) < 2:
        return None
    grid = _Grid(
        models, _chunks(models, lambda s: s.passes), lambda s: s.passes, lambda s: s.length, _tokens, "readings"
    )
    name = wording.context_name(context, list(results.overall))
    return style.finish(
        _draw(grid, colours),
        slug("niah-readings", captions.of_file(results, context)),
        f"Needles found by readings, {name}",
        f"{captions.meaning(context)} {captions.needles(results, context, usual)} {captions.samples(models)} "
        f"{captions.INTERVALS} {captions.BESIDE}{captions.left_out(left_out)}{captions.none_found(without)}",
    )


def _needles_plot(results: NiahResults, context: Context, colours: Mapping[str, str]) -> Plot | None:
    models = {model: results.overall[context][model] for model in results.models(context)}
    counts: dict[int, set[int]] = {}
    for setting in (setting for found in models.values() for setting in found):
        counts.setdefault(setting.length, set()).add(setting.needles)
    length = max(counts, key=lambda tokens: (len(counts[tokens]), -tokens))
    if len(counts[length]) < 2:
        return None
    of_length = {
        model: {setting: m for setting, m in found.items() if setting.length == length}
        for model, found in models.items()
    }
    chosen, without = _finding(
        {model: found for model, found in of_length.items() if len({s.needles for s in found}) > 1}
    )
    grid = _Grid(
        chosen,
        _chunks(chosen, lambda s: s.needles),
        lambda s: s.needles,
        lambda s: s.passes,
        wording.readings,
        "needles in the haystack",
    )
    name = wording.context_name(context, list(results.overall))
    return style.finish(
        _draw(grid, colours),
        slug("niah-needles", captions.of_file(results, context)),
        f"More needles in {wording.size(length)} tokens, {name}",
        f"{captions.meaning(context)} So many needles are hidden, one of them is asked for. {captions.samples(chosen)} "
        f"{captions.INTERVALS} {captions.BESIDE}{captions.none_found(without)}",
    )


def _draw(grid: _Grid, colours: Mapping[str, str]) -> Figure:
    models = list(grid.models)
    x_values, lines = grid.x_values(), grid.line_values()
    shifts = shifts_of(len(lines), x_values)
    height = 0.85 + 0.95 * len(models)
    figure, panels = style.new_figure(len(models), len(grid.chunks), height, sharex=True, sharey=True)
    for row, model in zip(panels, models, strict=True):
        same = not writes(model) and alike(grid.models[model])
        for axes, write_chunk in zip(row, grid.chunks, strict=True):
            found = {s: m for s, m in grid.models[model].items() if same or s.write_chunk == write_chunk}
            if same:
                once = {grid.x(setting): setting for setting in found}
                draw_line(axes, {setting: found[setting] for setting in once.values()}, grid.x, colours[model])
            elif not found:
                style.leave_out(axes)
            else:
                for at, (value, opacity) in enumerate(zip(lines, style.opacities(len(lines)), strict=True)):
                    chosen = {s: m for s, m in found.items() if grid.line(s) == value}
                    marker = style.MARKERS[at % len(style.MARKERS)]
                    draw_line(axes, chosen, grid.x, colours[model], shifts[at], marker, opacity)
            scales.percent_axis(axes.yaxis)
            scales.size_axis(axes.xaxis, x_values, 5, shifts[-1])
        style.row_title(row[0], model, "readings change nothing" if same and len(lines) > 1 else "")
    for axes, write_chunk in zip(panels[0], grid.chunks, strict=True):
        style.heading(axes, _heading(write_chunk, len(grid.chunks)))
    style.label_edges(panels)
    figure.supylabel("needles found", fontsize=7.5)
    figure.supxlabel(grid.x_label, fontsize=7.5)
    if len(lines) > 1:
        _legend(figure, [grid.line_name(value) for value in lines])
    return figure


def _legend(figure: Figure, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=style.INK,
            alpha=opacity,
            marker=marker,
            markeredgecolor=style.CARD,
            markeredgewidth=0.5,
        )
        for opacity, marker in zip(style.opacities(len(names)), style.MARKERS * len(names), strict=False)
    ]
    figure.legend(handles, list(names), loc="outside upper center", ncols=min(len(names), 4))


def _finding(models: Mapping[str, Found]) -> tuple[dict[str, Found], dict[str, Found]]:
    """The models that find some needle, and those that find none; all are to be drawn if none finds any."""
    finding = {model: found for model, found in models.items() if any(m.value > 0 for m in found.values())}
    if not finding:
        return dict(models), {}
    return finding, {model: found for model, found in models.items() if model not in finding}


def _chunks(models: Mapping[str, Found], x: Callable[[Setting], int]) -> list[str]:
    """The write chunks that make a line, with some model that writes; all of them if none does."""
    places: dict[str, dict[str, set[int]]] = {}
    for model, found in models.items():
        for setting in found:
            places.setdefault(setting.write_chunk, {}).setdefault(model, set()).add(x(setting))
    lines = [
        chunk
        for chunk, by_model in places.items()
        if any(len(at) > 1 for model, at in by_model.items() if writes(model))
    ]
    return sorted(lines or places, key=chunk_order)


def _heading(write_chunk: str, columns: int) -> str:
    """How is written, in two lines where many columns are narrow."""
    words = wording.writing(write_chunk).split(" ")
    middle = len(words) - 2
    return " ".join(words) if columns < 3 else "\n".join((" ".join(words[:middle]), " ".join(words[middle:])))


def _tokens(length: int) -> str:
    return f"{wording.size(length)} tokens"


def _shared_passes(models: Mapping[str, Found]) -> int:
    """The largest number of readings that all lengths were measured with; if there is none, the largest."""
    per_length: dict[int, set[int]] = {}
    for setting in (setting for found in models.values() for setting in found):
        per_length.setdefault(setting.length, set()).add(setting.passes)
    return max(set.intersection(*per_length.values()) or set.union(*per_length.values()))
