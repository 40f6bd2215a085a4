"""Plots of gates, addressing, cost, the ablation and the readings: what is drawn is what the rows say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest

from fwpkm_eval.reporting import style
from fwpkm_eval.reporting.measurements_ablation import Difference, ablation_results, against_reference, found_values
from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.reporting.style import Plot
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.intervals import wilson_interval
from fwpkm_eval.runs.rows import Row, rows_to_frame

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLAIN, FWPKM = "gdn+swa", "gdn+swa:fwpkm@1,3"
HOSTILE = '--><script>alert(1)</script>&"$x_{\\\\]\n%s<set>'
Draw = Callable[[Iterable[Row]], dict[str, "Figure"]]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Draw:
    """The figures that rows give, by name, as they are before they become files."""

    def figures(rows: Iterable[Row]) -> dict[str, Figure]:
        found: dict[str, Figure] = {}

        def keep(figure: Figure, name: str, title: str, caption: str) -> Plot:
            found[name] = figure
            assert title
            assert caption.endswith(".")
            return Plot(name, title, caption, "", b"", 1.0)

        monkeypatch.setattr(style, "finish", keep)
        build_plots(rows_to_frame(rows))
        return found

    return figures


def captions(rows: Iterable[Row]) -> dict[str, str]:
    return {plot.name: plot.caption for plot in build_plots(rows_to_frame(rows))}


def gate_rows(shares: Sequence[float], mean: float, **fields: Any) -> list[Row]:
    common: dict[str, Any] = {
        "task": "gates", "model": FWPKM, "dataset": "docs", "write_chunk": "128", "scope": "stream", "seed": 0,
        "score": "idw", "n": 1000, "unit": "fraction",
    }  # fmt: skip
    layer = fields.pop("layer", 1)
    common |= fields
    rows = [
        Row(metric=f"gate_share@{layer}", value=share, depth=round((at + 0.5) / len(shares), 4), **common)
        for at, share in enumerate(shares)
    ]
    return [*rows, Row(metric=f"gate_mean@{layer}", value=mean, **common)]


def use_rows(whole: Mapping[str, float], single: Mapping[str, tuple[float, float, float]], **fields: Any) -> list[Row]:
    common: dict[str, Any] = {
        "task": "addressing", "model": FWPKM, "dataset": "docs", "write_chunk": "128", "seed": 0, "score": "idw",
    }  # fmt: skip
    layer = fields.pop("layer", 1)
    common |= fields
    rows = [Row(metric=f"{name}@{layer}", value=value, n=131040, **common) for name, value in whole.items()]
    for name, (value, low, high) in single.items():
        rows.append(Row(metric=f"chunk_{name}@{layer}", value=value, n=128, ci_low=low, ci_high=high, **common))
    return rows


WHOLE = {"collision_rate": 0.88, "coverage": 0.69, "kl_to_uniform": 0.67}
SINGLE = {"collision_rate": (0.05, 0.04, 0.06), "coverage": (0.15, 0.14, 0.16), "kl_to_uniform": (4.2, 4.1, 4.3)}


def bars(axes: Axes) -> list[float]:
    """The heights of a histogram's bars, in percent."""
    return [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]  # all are rectangles


def dots(axes: Axes, marker: str = "o") -> list[tuple[float, float]]:
    """Where single marks stand."""
    found = []
    for line in axes.lines:
        if line.get_marker() == marker:
            found += list(zip(np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float), strict=True))
    return [(round(float(x), 6), round(float(y), 6)) for x, y in found]


def spans(axes: Axes) -> list[tuple[float, float]]:
    """From where to where the level lines of a panel reach."""
    from matplotlib.collections import LineCollection

    lines = [path for one in axes.collections if isinstance(one, LineCollection) for path in one.get_paths()]
    ends = [np.asarray(line.vertices, float)[:2, 0].round(6).tolist() for line in lines]
    return [(low, high) for low, high in ends]


def words(figure: Figure) -> str:
    """All text in a figure, its titles too."""
    from matplotlib.text import Text

    return " | ".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))


# Gates


def test_a_histogram_for_each_layer_and_set_with_its_mean(draw: Draw) -> None:
    rows = [
        *gate_rows([0.1, 0.2, 0.3, 0.4], 0.61),
        *gate_rows([0.0, 0.0, 0.0, 1.0], 0.9, layer=3),
        *gate_rows([0.25, 0.25, 0.25, 0.25], 0.5, dataset="source"),
    ]
    figure = draw(rows)["gates"]
    first, second, third, fourth = figure.axes
    assert bars(first) == pytest.approx([10, 20, 30, 40])
    assert bars(second) == pytest.approx([25, 25, 25, 25])
    assert bars(third) == pytest.approx([0, 0, 0, 100])
    assert [patch.get_x() for patch in first.patches] == pytest.approx([0, 0.25, 0.5, 0.75])  # type: ignore[attr-defined]
    assert [np.asarray(axes.lines[0].get_xdata())[0] for axes in (first, second, third)] == [0.61, 0.5, 0.9]
    assert bars(fourth) == []
    text = words(figure)
    for word in ("docs", "source", "layer 1", "layer 3", FWPKM, "0.61", "not measured"):
        assert word in text


def test_seeds_are_averaged_and_scorings_are_not(draw: Draw) -> None:
    rows = [
        *gate_rows([0.2, 0.8], 0.6),
        *gate_rows([0.4, 0.6], 0.4, seed=1),
        *gate_rows([1.0, 0.0], 0.1, score="dot"),
    ]
    dot, idw = draw(rows)["gates"].axes
    assert bars(dot) == pytest.approx([100, 0])
    assert bars(idw) == pytest.approx([30, 70])
    assert np.asarray(idw.lines[0].get_xdata())[0] == pytest.approx(0.5)
    table = {row[0].text: row[3].text for t in build_tables(rows_to_frame(rows)) if t.name == "gates" for row in t.rows}
    assert table == {f"{FWPKM} · idw": "0.500", f"{FWPKM} · dot": "0.100"}


def test_captions_say_how_many_tokens_and_seeds() -> None:
    one = gate_rows([0.5, 0.5], 0.5)
    assert "2 equal bins" in captions(one)["gates"]
    assert "1,000 tokens per panel, one seed; every token is counted" in captions(one)["gates"]
    two = captions([*one, *gate_rows([0.5, 0.5], 0.5, seed=1)])["gates"]
    assert "1,000 tokens per panel and seed, the mean of 2 seeds" in two


def test_many_sets_become_several_figures(draw: Draw) -> None:
    rows = [row for number in range(6) for row in gate_rows([0.5, 0.5], 0.5, dataset=f"set{number}")]
    figures = draw(rows)
    assert [(name, len(figure.axes)) for name, figure in figures.items()] == [("gates-1", 4), ("gates-2", 2)]
    assert "set5" in words(figures["gates-2"])


# Addressing


def test_the_use_of_slots_stands_at_its_values_with_the_intervals_of_single_writes(draw: Draw) -> None:
    rows = [*use_rows(WHOLE, SINGLE), *use_rows({"coverage": 0.5}, {}, dataset="source")]
    collisions, coverage, kl = draw(rows)["addressing"].axes
    assert sorted(dots(collisions)) == [(0.05, 0), (0.88, 0)]
    assert sorted(dots(coverage)) == [(0.15, 0), (0.5, 1), (0.69, 0)]
    assert sorted(dots(kl)) == [(0.67, 0), (4.2, 0)]
    assert [spans(axes) for axes in (collisions, coverage, kl)] == [[(0.04, 0.06)], [(0.14, 0.16)], [(4.1, 4.3)]]
    assert [tick.get_text() for tick in collisions.get_yticklabels()] == ["docs", "source"]
    assert kl.get_xlim()[1] > 4.3
    filled = [line for line in collisions.lines if line.get_markerfacecolor() != style.CARD]
    assert [float(np.asarray(line.get_xdata())[0]) for line in filled] == [0.05], "hollow: the whole set"


def test_seeds_of_addressing_give_students_interval(draw: Draw) -> None:
    low = use_rows(WHOLE, {"coverage": (0.1, 0.09, 0.11)})
    rows = [*low, *use_rows(WHOLE, {"coverage": (0.2, 0.19, 0.21)}, seed=1)]
    _, coverage, _ = draw(rows)["addressing"].axes
    assert spans(coverage)[-1] == pytest.approx((0.15 - 12.706 * 0.05, 0.15 + 12.706 * 0.05), abs=1e-4)
    assert "128 writes and 2 seeds" in captions_of_seeds(rows)


def captions_of_seeds(rows: list[Row]) -> str:
    from fwpkm_eval.reporting.measurements_memory import by_layer
    from fwpkm_eval.reporting.plots_memory import _addressing_caption

    found = by_layer(rows_to_frame(rows), "addressing")
    return _addressing_caption([m for place in found.values() for name, m in place.items() if "chunk" in name])


# Cost


def cost(model: str, **values: float) -> list[Row]:
    kinds = {"reading": ("samples_per_second", "reading"), "training": ("samples_per_second", "training")}
    rows = []
    for name, value in values.items():
        metric, protocol = kinds.get(name, (name, ""))
        rows.append(Row(task="cost", model=model, metric=metric, protocol=protocol, value=value, length=4096))
    return rows


def test_costs_stand_at_their_ratio_to_the_baseline(draw: Draw) -> None:
    rows = [
        *cost(PLAIN, parameters=100, active_parameters=100, reading=8, training=2),
        *cost(FWPKM, parameters=1100, active_parameters=110, reading=2, training=1.6),
        *cost("gdn+swa:pkm@1", parameters=50),
    ]
    figure = draw(rows)["cost"]
    (axes,) = figure.axes
    at = {x for x, _ in dots(axes)}
    assert at == {11.0, 1.1, 4.0, 1.25, 0.5}
    heights = dict(dots(axes))
    groups = dict(zip([tick.get_text() for tick in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    assert list(groups) == ["parameters", "active parameters", "time, reading", "time, training"]
    for name, ratio in zip(groups, (11.0, 1.1, 4.0, 1.25), strict=True):
        assert abs(heights[ratio] - groups[name]) < 1
    assert "11×" in words(figure)
    assert "0.5×" in words(figure)


def test_without_a_baseline_there_is_no_cost_to_compare(draw: Draw) -> None:
    assert "cost" not in draw(cost(FWPKM, parameters=3, reading=1))
    assert "cost" not in draw([*cost(PLAIN, parameters=0), *cost(FWPKM, parameters=3)])


# The ablation


def arm(name: str, score: str, found: Mapping[int, float], bits: Mapping[int, float], needles: int = 64) -> list[Row]:
    common: dict[str, Any] = {"task": "ablation", "model": FWPKM, "scale": "micro", "arm": name, "score": score}
    ways: dict[str, Any] = {"needles": needles, "length": 4096, "passes": 1, "write_chunk": "1024", "n": 12}
    rows = [
        Row(metric="exact_match", value=value, unit="fraction", seed=seed, **ways, **common)
        for seed, value in found.items()
    ]
    return rows + [Row(metric="bits_per_byte", value=v, seed=seed, n=65536, **common) for seed, v in bits.items()]


REFERENCE = arm("reference", "idw", {0: 0.9, 1: 0.5, 2: 0.7}, {0: 3.0, 1: 3.3, 2: 3.1})
NO_GATE = arm("no-gate", "idw", {0: 0.7, 1: 0.29, 2: 0.51}, {0: 3.1, 1: 3.2, 2: 3.1})
TOP32 = arm("top32", "idw", {0: 0.95, 1: 0.56, 2: 0.74}, {0: 2.9, 1: 3.21, 2: 3.01})


def test_the_forest_shows_the_differences_of_the_table(draw: Draw) -> None:
    rows = [*REFERENCE, *NO_GATE, *TOP32]
    figures = draw(rows)
    assert list(figures) == ["ablation-needles", "ablation-bits"]
    (axes,) = figures["ablation-needles"].axes
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["no-gate", "top32"]
    seeds = [x for x, y in dots(axes) if y < 0.5]
    assert seeds == pytest.approx([-20, -21, -19]), "by seed, in points, on the first line"
    results = ablation_results(rows_to_frame(rows))
    for at, name in enumerate(("no-gate", "top32")):
        expected = against_reference(found_values(results, 64), name, "idw", as_rate=True)
        assert isinstance(expected, Difference)
        assert dots(axes, "D")[at][0] == pytest.approx(expected.mean * 100, abs=1e-5)
        assert spans(axes)[at] == pytest.approx((expected.low * 100, expected.high * 100), abs=1e-5)  # type: ignore[operator]
    (bits,) = figures["ablation-bits"].axes
    assert [x for x, y in dots(bits) if y < 0.5] == pytest.approx([0.1, -0.1, 0.0])


def test_colour_and_filling_say_better_worse_or_within(draw: Draw) -> None:
    figures = draw([*REFERENCE, *NO_GATE, *TOP32])

    def looks(name: str) -> list[tuple[object, object]]:
        (axes,) = figures[name].axes
        return [(line.get_color(), line.get_markerfacecolor()) for line in axes.lines if line.get_marker() == "D"]

    assert looks("ablation-needles") == [(style.WORSE, style.WORSE), (style.BETTER, style.BETTER)]
    assert looks("ablation-bits") == [(style.EVEN, style.CARD), (style.BETTER, style.BETTER)]


def test_each_scoring_has_its_panel_and_each_number_of_needles_its_row(draw: Draw) -> None:
    rows = [*REFERENCE, *NO_GATE]
    rows += arm("reference", "idw", {0: 1.0, 1: 1.0, 2: 1.0}, {}, needles=5)
    rows += arm("no-gate", "idw", {0: 0.5, 1: 0.5, 2: 0.5}, {}, needles=5)
    rows += arm("reference", "dot", {0: 0.4}, {0: 3.0}) + arm("no-gate", "dot", {0: 0.1}, {0: 3.5})
    figure = draw(rows)["ablation-needles"]
    idw, dot, few_idw, few_dot = figure.axes
    assert dots(idw, "D")[0][0] == pytest.approx(-20)
    assert dots(dot) == [(-30.0, 0.0)]
    assert dots(dot, "D") == [], "one seed has no interval"
    assert dots(few_idw, "D")[0][0] == pytest.approx(-50)
    assert dots(few_dot) == []
    assert "not measured" in words(figure)
    for word in ("scoring idw", "scoring dot", "64 needles", "5 needles"):
        assert word in words(figure)


def test_trainings_that_diverged_are_named_and_in_no_dot(draw: Draw) -> None:
    gone = [
        Row(task="ablation", metric="diverged", value=120, unit="step", arm="no-entropy", score="idw", seed=seed)
        for seed in (0, 1, 2)
    ]
    with_bits = arm("no-entropy", "dot", {0: 0.1}, {0: 3.0}) + arm("reference", "dot", {0: 0.4}, {0: 3.0})
    rows = [*REFERENCE, *NO_GATE, *gone, *with_bits]
    assert "diverged" in words(draw(rows)["ablation-needles"])


def test_captions_of_the_ablation_say_samples_seeds_and_what_diverged() -> None:
    gone = Row(task="ablation", metric="diverged", value=120, unit="step", arm="no-gate", score="idw", seed=2)
    text = captions([*REFERENCE, *NO_GATE, *TOP32, gone])["ablation-needles"]
    for words_of_it in ("12 haystacks", "(3 seeds)", "95% interval", "no-gate (idw) with seed 2"):
        assert words_of_it in text
    one = captions([*arm("reference", "idw", {0: 0.5}, {}), *arm("no-gate", "idw", {0: 0.4}, {})])
    assert "One seed says nothing of the spread" in one["ablation-needles"]
    assert list(one) == ["ablation-needles"]


def test_an_interval_that_goes_on_has_an_arrow_and_hides_no_seed(draw: Draw) -> None:
    wide = arm("no-gate", "idw", {0: 0.9, 1: 0.3}, {})
    (axes,) = draw([*arm("reference", "idw", {0: 0.9, 1: 0.5}, {}), *wide])["ablation-needles"].axes
    low, high = axes.get_xlim()
    assert high - low < 100, "Student's interval of two seeds is 254 points wide"
    assert [x for x, _ in dots(axes, "<")] == [pytest.approx(low, abs=1e-5)]
    assert [x for x, _ in dots(axes, ">")] == [pytest.approx(high, abs=1e-5)]
    assert all(low < x < high for x, _ in dots(axes))


def test_a_reference_alone_is_no_forest(draw: Draw) -> None:
    assert draw(REFERENCE) == {}
    assert draw(NO_GATE) == {}, "nothing to stand against"


# Readings


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


# Whatever the rows hold


@pytest.mark.parametrize("task", ["gates", "addressing", "cost", "ablation", "niah"])
@pytest.mark.parametrize(
    "fields",
    [{}, {"metric": "coverage@1"}, {"metric": "gate_share@1", "depth": 0.5, "value": math.nan}, {"metric": "x@y@z"}],
    ids=["bare", "no-value", "not-a-number", "odd"],
)
def test_rows_without_measurements_give_no_plot_and_no_error(task: str, fields: dict[str, Any]) -> None:
    if task == "ablation":
        fields = {**fields, "seed": 0, "arm": "reference", "score": "idw"}
    frame = rows_to_frame([Row(task=task, model=FWPKM, **fields)])
    assert build_plots(frame) == []
    assert build_plots(rows_to_frame([])) == []


def test_hostile_names_are_outlines_of_letters_in_a_valid_svg() -> None:
    model = f"gdn:fwpkm@1 {HOSTILE}"
    rows = [
        *gate_rows([0.5, 0.5], 0.5, dataset=HOSTILE, model=model),
        *use_rows(WHOLE, SINGLE, dataset=HOSTILE, model=model),
        *cost("gdn", parameters=2),
        *cost(model, parameters=3),
    ]
    plots = build_plots(rows_to_frame(rows))
    assert [plot.name for plot in plots] == ["cost", "gates", "addressing"]
    for plot in plots:
        root = ElementTree.fromstring(plot.svg)
        assert not [element for element in root.iter() if "script" in str(element.tag)]
        assert len(plot.png) > 5000


def test_names_that_are_too_long_are_cut_and_stay_in_one_line(draw: Draw) -> None:
    name = f"gdn:fwpkm@1 {HOSTILE * 3}"
    rows = [*gate_rows([0.5, 0.5], 0.5, model=name), *cost("gdn", parameters=2), *cost(name, parameters=3)]
    for figure in draw(rows).values():
        figure.draw_without_rendering()
        assert all(len(text) < 60 and "\n" not in text for text in words(figure).split(" | "))
        for legend in figure.legends:
            box = legend.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1


# Speed, depths, and lines that coincide


def test_ratios_to_a_peer_are_no_ratios_to_the_reference(draw: Draw) -> None:
    def ratio(arm: str, metric: str, value: float) -> Row:
        return Row(task="bench", arm=arm, backend="torch", metric=metric, value=value, unit="ratio")

    figures = draw(
        [
            ratio("scan/torch in place, tuned malloc", "speedup_forward", 20),
            ratio("lookup/torch", "speedup_forward", 1),
            ratio("pkm/torch", "speedup_forward_backward", 3),
            ratio("layer/fwpkm_eval 1", "speedup_over_peer_forward", 221),
        ]
    )

    def shown(name: str) -> list[tuple[str, list[str]]]:
        return [
            (axes.get_title(loc="left"), [tick.get_text() for tick in axes.get_yticklabels()])
            for axes in figures[name].axes
        ]

    assert shown("speed") == [
        ("forward", ["scan, torch in place, tuned malloc", "top-k lookup, torch"]),
        ("forward + backward", ["PKM's read, torch"]),
    ]
    assert shown("speed-peer") == [("forward", ["fwpkm_eval 1"])]
    assert figures["speed"].axes[-1].get_xlabel() == "times as fast as the reference"
    assert figures["speed-peer"].axes[-1].get_xlabel() == "times as fast as the peer's layer"


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
