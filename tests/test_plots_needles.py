"""Plots of readings, lengths and depths: what is drawn is what the rows say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

from plot_cases import FWPKM, PLAIN, Draw, captions, uprights, words


def needle(model: str, found: int, length: int, passes: int, **fields: Any) -> Row:
    low, high = wilson_interval(found, 20)
    common: dict[str, Any] = {
        "model": model, "task": "niah", "dataset": "manual", "metric": "exact_match", "unit": "fraction", "n": 20,
        "needles": 5, "write_chunk": "haystack", "scope": "sample", "protocol": "closed-book", "seed": 0,
    }  # fmt: skip
    where: dict[str, Any] = {"value": found / 20, "ci_low": low, "ci_high": high, "length": length, "passes": passes}
    return Row(**{**common, **where, **fields})


def test_readings_are_drawn_a_line_for_each_length(draw: Draw) -> None:
    found = {(4096, 1): 11, (4096, 4): 20, (32768, 1): 3, (32768, 4): 8}
    rows = [needle(FWPKM, count, *where) for where, count in found.items()]
    rows += [needle(PLAIN, 1, *where) for where in found]
    (axes,) = draw(rows)["niah-readings-closed-book"].axes
    assert heights(axes) == {"o": [pytest.approx(55), 100], "s": [pytest.approx(15), pytest.approx(40)]}
    text = captions(rows)["niah-readings-closed-book"]
    assert f"as readings and writes change nothing for them: {PLAIN} (at most 5% found)" in text
    assert "20 samples per point" in text


def heights(axes: Axes) -> dict[str, list[float]]:
    """The values of the points of each line, by its marker."""
    marked = [line for line in axes.lines if line.get_marker() != "None"]
    return {str(line.get_marker()): np.asarray(line.get_ydata(), float).tolist() for line in marked}


def test_one_length_needs_no_second_figure_of_readings(draw: Draw) -> None:
    assert list(draw([needle(FWPKM, 3, 4096, 1), needle(FWPKM, 9, 4096, 4)])) == ["niah-length-closed-book"]


def test_no_reading_at_all_has_its_place_on_the_axis(draw: Draw) -> None:
    rows = [needle(FWPKM, 3 + n, length, n, protocol="open-book") for n in (0, 1, 4) for length in (4096, 8192)]
    (axes,) = draw(rows)["niah-readings-open-book"].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "1", "4"]
    assert all(math.isfinite(end) for end in axes.get_xlim())
    assert axes.get_xlim()[0] < 0 < 4 < axes.get_xlim()[1]


def found_rows(model: str, found: int, **fields: Any) -> list[Row]:
    """Needles found at two lengths, of 20, in all and at one depth."""
    low, high = wilson_interval(found, 20)
    common: dict[str, Any] = {
        "task": "niah", "metric": "exact_match", "unit": "fraction", "model": model, "dataset": "manual", "n": 20,
        "value": found / 20, "ci_low": low, "ci_high": high, "needles": 5, "scope": "sample", "seed": 0,
        "protocol": "closed-book", "write_chunk": "1024", "passes": 1,
    } | fields  # fmt: skip
    return [Row(**common, length=length, depth=depth) for length in (4096, 32768) for depth in (None, 0.05)]


def test_titles_of_rows_of_heat_maps_run_into_nothing(draw: Draw) -> None:
    from matplotlib.offsetbox import AnchoredOffsetbox

    name = "gdn+swa:pkm@1+fwpkm@2,3,4"
    rows = [row for passes in (1, 2, 4) for row in found_rows(name, 9 + passes, passes=passes)]
    figure = draw(rows)["niah-depth-closed-book"]
    figure.draw_without_rendering()
    *panels, bar = figure.axes
    (title,) = [artist for axes in panels for artist in axes.get_children() if isinstance(artist, AnchoredOffsetbox)]
    words, key = title.get_window_extent(), bar.get_tightbbox()
    assert key is not None
    assert not words.overlaps(key)
    assert words.x1 <= figure.bbox.x1


def test_points_that_coincide_stand_side_by_side_at_their_true_height(draw: Draw) -> None:
    """Three models find nothing, and one finds all: each point is seen, within its axes, none is moved up or down."""
    models = {PLAIN: 0, "gdn+swa:pkm@1,3": 0, "gdn+swa:fwmlp@1,3": 0, FWPKM: 20}
    (axes,) = draw([row for model, found in models.items() for row in found_rows(model, found)])[
        "niah-models-closed-book"
    ].axes
    marked = [line for line in axes.lines if line.get_marker() != "None"]
    assert [np.asarray(line.get_ydata()).tolist() for line in marked] == [[0, 0]] * 3 + [[100, 100]]
    assert all(line.get_transform() == axes.transData for line in marked)
    at = np.log2(np.asarray([line.get_xdata() for line in marked], float))
    assert (np.diff(at, axis=0) > 0.05).all(), "in the order of the legend"
    assert np.abs(at - np.log2([4096, 32768])).max() < 1, "nearer to their own length than to any other"
    low, high = axes.get_xlim()
    assert low < 2 ** at.min() < 2 ** at.max() < high


def test_an_interval_is_a_bar_at_its_point(draw: Draw) -> None:
    rows = [*found_rows(PLAIN, 0), *found_rows(FWPKM, 15)]
    (axes,) = draw(rows)["niah-models-closed-book"].axes
    marked = [line for line in axes.lines if line.get_marker() != "None"]
    for line, found in zip(marked, (0, 15), strict=True):
        low, high = wilson_interval(found, 20)
        for x in np.asarray(line.get_xdata(), float):
            assert [ends for at, *ends in uprights(axes) if at == pytest.approx(x)] == [
                pytest.approx([100 * low, 100 * high], abs=1e-4)
            ]


def test_the_caption_says_after_how_many_readings_models_are_compared() -> None:
    rows = [row for passes in (1, 2) for row in found_rows(FWPKM, 9 + passes, passes=passes)]
    rows += [row for passes in (1, 2) for row in found_rows(PLAIN, 0, passes=passes)]
    said = "Every point is after 2 readings"
    assert f"{said}; tables also have the best" in captions(rows)["niah-models-closed-book"]
    rows += [needle(FWPKM, 20, 4096, 4, write_chunk="1024")]
    assert f"{said}, the most with which every length was measured;" in captions(rows)["niah-models-closed-book"]
    once = [*found_rows(FWPKM, 9), *found_rows(PLAIN, 0)]
    assert "Every point" not in captions(once)["niah-models-closed-book"]


def test_models_that_find_nothing_are_told_of_and_not_drawn(draw: Draw) -> None:
    rows = [*found_rows(PLAIN, 0), *found_rows("gdn+swa:lact@1,3", 0), *found_rows(FWPKM, 15)]
    shown = words(draw(rows)["niah-length-closed-book"])
    assert FWPKM in shown
    assert PLAIN not in shown.replace(FWPKM, "")
    told = captions(rows)["niah-length-closed-book"]
    assert f"not one needle was found by them: {PLAIN} and gdn+swa:lact@1,3 (95% intervals reach 16% at most)" in told
    none = found_rows(FWPKM, 0)
    assert FWPKM in words(draw(none)["niah-length-closed-book"]), "where nobody finds any it is what there is to show"


def test_ways_of_writing_that_were_not_measured_leave_their_place_empty(draw: Draw) -> None:
    rows = [row for chunk in ("haystack", "1024") for row in found_rows(FWPKM, 15, write_chunk=chunk)]
    rows += found_rows("gdn+swa:lact@1,3", 9, write_chunk="1024")
    figure = draw(rows)["niah-length-closed-book"]
    assert [axes.axison for axes in figure.axes] == [False, True, True, True]
    assert "not measured" not in words(figure)
    assert figure.axes[1].yaxis.get_tick_params()["labelleft"], "the axis is labelled where the row begins"


# Depths


def depth_rows(model: str, found: dict[float, int], n: int, passes: int = 1) -> list[Row]:
    """Of ``n`` samples with the needle at each depth so many were found, at two lengths."""
    share = sum(found.values()) / (n * len(found))
    total = [row for row in found_rows(model, round(20 * share), passes=passes) if row.depth is None]
    common: dict[str, Any] = {"n": n, "ci_low": None, "ci_high": None, "write_chunk": "1024"}
    return total + [
        needle(model, 0, length, passes, depth=depth, **{**common, "value": count / n})
        for depth, count in found.items()
        for length in (4096, 32768)
    ]


def fields_of(axes: Axes) -> list[list[float]]:
    """A heat map from start to end, a list for each line; nan where it is grey."""
    (mesh,) = axes.collections
    return np.ma.filled(np.ma.asarray(mesh.get_array(), dtype=float), np.nan).tolist()


TENTHS = [round(0.05 + at / 10, 2) for at in range(10)]


def test_a_field_is_drawn_only_with_enough_samples(draw: Draw) -> None:
    found = dict.fromkeys(TENTHS, 2) | {0.05: 1}
    axes, _ = draw(depth_rows(FWPKM, dict.fromkeys(TENTHS, 3) | {0.05: 0}, 3))["niah-depth-closed-book"].axes
    assert fields_of(axes) == [[0, 0], *[[100, 100]] * 9], "three in each tenth"
    axes, _ = draw(depth_rows(FWPKM, found, 2))["niah-depth-closed-book"].axes
    assert fields_of(axes) == [[75, 75], *[[100, 100]] * 4], "two and two in each fifth"
    axes, _ = draw(depth_rows(FWPKM, {depth: count for depth, count in found.items() if depth != 0.55}, 2))[
        "niah-depth-closed-book"
    ].axes
    assert np.isnan(fields_of(axes)).tolist() == [[False] * 2] * 2 + [[True] * 2] + [[False] * 2] * 2
    few = depth_rows(FWPKM, dict.fromkeys(TENTHS[:5], 1), 1)
    assert list(draw(few)) == ["niah-length-closed-book"]
    assert "Depths are not drawn: hardly one has 3 samples." in captions(few)["niah-length-closed-book"]


def test_depth_is_drawn_for_models_without_memory_where_it_matters(draw: Draw) -> None:
    middle = {0.05: 9, 0.25: 9, 0.45: 2, 0.65: 8, 0.85: 9}
    rows = [row for passes in (1, 2) for row in depth_rows("gdn+fa", middle, 10, passes)]
    rows += [*depth_rows(PLAIN, dict.fromkeys(middle, 0), 10), *depth_rows(FWPKM, dict.fromkeys(middle, 10), 10)]
    figure = draw(rows)["niah-depth-closed-book"]
    assert "gdn+fa | readings and writes change nothing" in words(figure)
    assert [f"{line[0]:.0f}" for line in fields_of(figure.axes[0])[::2]] == ["90", "90", "20", "80", "90"]
    told = captions(rows)["niah-depth-closed-book"]
    assert f"none found by {PLAIN}; all found by {FWPKM}" in told
    assert PLAIN not in words(figure)
