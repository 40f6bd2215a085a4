"""The ablation's plot: its differences are those of the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from fwpkm_eval.reporting import style
from fwpkm_eval.reporting.measurements_ablation import Difference, ablation_results, against_reference, found_values
from fwpkm_eval.runs.rows import Row, rows_to_frame

if TYPE_CHECKING:
    pass

from plot_cases import FWPKM, Draw, captions, dots, spans, words


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
