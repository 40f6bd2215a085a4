"""Plots of whatever the rows hold: too little, names that want to be more than names, names that are too long."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

import pytest
from plot_cases import FWPKM, HOSTILE, SINGLE, WHOLE, Draw, cost, gate_rows, use_rows, words

from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.runs.rows import Row, rows_to_frame


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
