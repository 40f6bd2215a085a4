"""Plots in general: what is drawn, in which colours, and the same each time."""

from __future__ import annotations

import re

import pytest
from report_cases import FWPKM, MODELS, PLAIN, bench_rows, bits, needle

from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.reporting.style import ON_DARK, colours
from fwpkm_eval.runs.rows import Row, rows_to_frame


def test_only_what_has_rows_is_drawn() -> None:
    def names(*rows: Row) -> set[str]:
        return {plot.name for plot in build_plots(rows_to_frame(rows))}

    assert names() == set()
    assert names(needle(FWPKM, 3)) == set(), "one point is no plot"
    assert names(needle(FWPKM, 3), needle(FWPKM, 5, passes=2)) == {"niah-length-closed-book"}
    assert names(*bits(FWPKM, 1.7)) == {"bits-per-byte"}
    assert names(*bench_rows()) == {"speed"}
    assert names(needle(FWPKM, 3, depth=0.05, n=5)) == set(), "no whole to belong to"


def test_figures_are_the_same_bytes_each_time_and_carry_no_date() -> None:
    frame = rows_to_frame([*bits(PLAIN, 2.0), *bits(FWPKM, 1.7), needle(FWPKM, 3), needle(FWPKM, 9, passes=2)])
    once, again = build_plots(frame), build_plots(frame)
    assert [(plot.svg, plot.png) for plot in once] == [(plot.svg, plot.png) for plot in again]
    assert len(once) == 2
    for plot in once:
        assert not re.search(r"20\d\d-\d\d-\d\d", plot.svg)
        assert b"Software" not in plot.png


def test_a_users_matplotlib_settings_change_no_figure_and_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    frame = rows_to_frame([*bits(PLAIN, 2.0), *bits(FWPKM, 1.7)])
    (before,) = build_plots(frame)
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red"}):
        (within,) = build_plots(frame)
        assert matplotlib.rcParams["font.size"] == 30
    assert within.svg == before.svg


def test_a_model_keeps_its_colour_and_models_have_different_ones() -> None:
    few, many = colours([PLAIN, FWPKM]), colours([*MODELS, "fa", "fa:fwpkm@2", "gdn:pkm@6+fwpkm@2,10", "guess"])
    assert few[FWPKM] == many["fa:fwpkm@2"] or few[FWPKM] == many[FWPKM]
    assert len(set(many.values())) == len(many) == 7
    assert "guess" not in many
    assert set(many.values()) <= set(ON_DARK)
    hundred = colours(f"gdn:fwpkm@{layer}" for layer in range(100))
    assert len(hundred) == 100
