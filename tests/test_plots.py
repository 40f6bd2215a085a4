"""Plots in general: what is drawn, in which colours, and the same each time."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from report_cases import FWPKM, MODELS, PLAIN, bench_rows, bits, needle

from fwpkm_eval.reporting.plots import build_plots
from fwpkm_eval.reporting.style import BETTER, EVEN, ON_DARK, WORSE, colours, markers
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


def test_a_models_colour_follows_from_its_name_alone() -> None:
    every = [*MODELS, "gdn+swa:lact@2", "gdn+fa", "gdn+fa:fwpkm@2", "gdn+swa:pkm@1+fwpkm@3", "guess"]
    together = colours(every)
    assert "guess" not in together
    assert together == {model: colours([model])[model] for model in together}
    assert len(set(together.values())) == len(together) == 8
    assert together["gdn+fa:fwpkm@2"] == colours(["fa:fwpkm@1,3 · dot"])["fa:fwpkm@1,3 · dot"]
    assert together[FWPKM] == colours(["gdn:fwpkm@7"])["gdn:fwpkm@7"]
    unheard_of = colours(["gdn:abc@1", "gdn:xyz@1", "swa:abc@2", *every])
    assert unheard_of["gdn:abc@1"] == unheard_of["swa:abc@2"]
    assert set(unheard_of.values()) <= set(ON_DARK)
    assert WORSE not in unheard_of.values()
    assert BETTER != WORSE != EVEN


def test_models_of_one_colour_have_different_markers() -> None:
    models = ["gdn:fwpkm@2", "gdn+swa:fwpkm@2", "gdn+swa:fwpkm@1,3", "gdn+fa:fwpkm@2", "gdn+fa"]
    chosen, shapes = colours(models), markers(models)
    assert len({(chosen[model], shapes[model]) for model in models}) == len(models)
    assert shapes["gdn+fa"] == shapes["gdn+fa:fwpkm@2"] != shapes["gdn:fwpkm@2"]
    assert len(markers(f"gdn:fwpkm@{layer}" for layer in range(100))) == 100


SEEN_BY = {
    "everybody": np.eye(3),
    "protanopes": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopes": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopes": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""From linear RGB to what is seen; Machado, Oliveira and Fernandes 2009, severity 1."""


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_colours_of_models_stay_apart_for_everybody(eyes: str) -> None:
    """By CIE76 in CIELAB; 2.3 is just noticeable."""

    def lab(colour: str) -> np.ndarray:
        rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        seen = np.clip(np.asarray(SEEN_BY[eyes]) @ linear, 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
        x, y, z = np.cbrt(xyz / np.array([0.9505, 1, 1.089]))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    models = [*MODELS, "gdn+swa:lact@2", "gdn+fa", "gdn+fa:fwpkm@2", "gdn+swa:pkm@1+fwpkm@3"]
    seen = {name: lab(colour) for name, colour in {**colours(models), "worse": WORSE}.items()}
    apart = {(a, b): float(np.linalg.norm(seen[a] - seen[b])) for a, b in itertools.combinations(seen, 2)}
    nearest = min(apart, key=lambda pair: apart[pair])
    assert apart[nearest] > 10, nearest
