"""Plots of readings, lengths and depths: what is drawn is what the rows say."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row

if TYPE_CHECKING:
    pass

from plot_cases import FWPKM, PLAIN, Draw, captions


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
    lines = {line.get_marker(): np.asarray(line.get_ydata(), float).tolist() for line in axes.lines}
    assert lines == {"o": [pytest.approx(55), 100], "s": [pytest.approx(15), pytest.approx(40)]}
    text = captions(rows)["niah-readings-closed-book"]
    assert f"{PLAIN} (at most 5%)" in text
    assert "20 samples per point" in text


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


def test_lines_that_coincide_lie_side_by_side(draw: Draw) -> None:
    """Three models find nothing, and one finds all: the three are apart by a line's width, the other is where it is."""
    models = {PLAIN: 0, "gdn+swa:pkm@1,3": 0, "gdn+swa:fwmlp@1,3": 0, FWPKM: 20}
    figure = draw([row for model, found in models.items() for row in found_rows(model, found)])[
        "niah-models-closed-book"
    ]
    figure.draw_without_rendering()
    (axes,) = figure.axes
    points = figure.dpi / 72
    heights = [line.get_transform().transform(line.get_xydata())[:, 1] / points for line in axes.lines]
    middle = axes.transData.transform([(1, 0), (1, 100)])[:, 1] / points
    assert [list(found - middle[0]) for found in heights[:3]] == [
        pytest.approx([each, each], abs=0.01) for each in (1.5, 0, -1.5)
    ]
    assert list(heights[3]) == pytest.approx([middle[1], middle[1]], abs=0.01)
    assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines] == [[0, 0]] * 3 + [[100, 100]]
