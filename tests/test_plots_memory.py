"""Plots of gates, addressing, cost, speed and loss along documents: what is drawn is what the rows say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fwpkm_eval.reporting import style
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.rows import Row, rows_to_frame

if TYPE_CHECKING:
    pass

from plot_cases import (
    FWPKM,
    PLAIN,
    SINGLE,
    WHOLE,
    Draw,
    bars,
    captions,
    cost,
    dots,
    gate_rows,
    spans,
    uprights,
    use_rows,
    words,
)
from report_cases import bits

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
    for word in ("docs", "source", "layer 1", "layer 3", FWPKM, "0.61"):
        assert word in text
    assert [axes.axison for axes in figure.axes] == [True, True, True, False], "not measured: nothing is drawn"


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


# Speed


def test_ratios_to_a_peer_are_no_ratios_to_the_reference(draw: Draw) -> None:
    def ratio(arm: str, metric: str, value: float) -> Row:
        return Row(task="bench", arm=arm, backend="torch", metric=metric, value=value, unit="ratio")

    figures = draw(
        [
            ratio("scan/torch in place, tuned malloc", "speedup_forward", 20),
            ratio("lookup/torch", "speedup_forward", 1),
            ratio("pkm/torch", "speedup_forward_backward", 3),
            ratio("layer/fwpkm_eval", "speedup_over_peer_forward", 221),
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
    assert shown("speed-peer") == [("forward", ["fwpkm_eval"])]
    assert figures["speed"].axes[-1].get_xlabel() == "times as fast as the reference"
    assert figures["speed-peer"].axes[-1].get_xlabel() == "times as fast as the peer's layer"


def test_speed_stands_at_its_ratio_with_its_percentiles(draw: Draw) -> None:
    rows = [
        Row(
            task="bench", arm="scan/torch", metric="speedup_forward", value=30, ci_low=10, ci_high=46, unit="ratio"
        ),
        Row(task="bench", arm="read/torch", metric="speedup_forward", value=0.5, unit="ratio"),
    ]  # fmt: skip
    (axes,) = draw(rows)["speed"].axes
    assert dots(axes) == [(30, 0), (0.5, 1)]
    assert spans(axes) == [(10, 46)]
    assert not list(axes.patches), "no bar: a logarithmic axis has no foot for it"
    low, high = axes.get_xlim()
    assert low < 0.5 < 46 < high
    assert "10th and 90th percentiles" in captions(rows)["speed"]
    assert "percentiles" not in captions(rows[1:])["speed"]


def test_the_time_of_a_token_has_its_percentiles(draw: Draw) -> None:
    def token(subkeys: int, length: int, value: float, **bounds: Any) -> Row:
        return Row(
            task="bench", metric="seconds_per_token_forward", dataset=f"S {subkeys}, dk 64", length=length,
            value=value, unit="seconds", **bounds,
        )  # fmt: skip

    rows = [token(64, 512, 1e-5, ci_low=8e-6, ci_high=3e-5), token(128, 512, 2e-5), token(64, 1024, 1.5e-5)]
    slots, tokens = draw(rows)["speed-scaling"].axes
    assert dots(slots) == [(4096, 10), (16384, 20)]
    assert dots(tokens) == [(512, 10), (1024, 15)]
    assert uprights(slots) == [(4096, 8, 30)]
    assert slots.get_ylim()[1] > 30
    assert "90th percentile" in captions(rows)["speed-scaling"]
    repeating = replace(token(64, 512, 3e-5), dataset="S 64, dk 64, W 70, B 1")
    slots, tokens = draw([*rows, repeating])["speed-scaling"].axes
    assert dots(slots) == [(4096, 10), (16384, 20)], "tokens that repeat are in the table alone"
    assert "percentile" not in captions([*rows[1:], token(64, 512, 1e-5)])["speed-scaling"]


# Loss along a document


def along(model: str, values: Sequence[float], **fields: Any) -> list[Row]:
    common: dict[str, Any] = {"task": "ppl", "dataset": "docs", "scope": "stream", "seed": 0, "unit": "bits"}
    return [
        Row(metric="bits_per_byte_at_position", model=model, value=value, length=128 * 2**at, n=500, **common, **fields)
        for at, value in enumerate(values)
    ]


def test_losses_along_a_document_stand_against_the_model_without_memory(draw: Draw) -> None:
    rows = [
        *along("gdn+fa", [2.5, 2.0, 1.5]),
        *along(PLAIN, [3.0, 2.0, 1.0]),
        *along(FWPKM, [3.1, 1.5, 0.25], write_chunk="128"),
        *along(FWPKM, [3.0, 2.25, 1.0], arm="frozen"),
        *along("gdn+swa:fwmlp@1,3", [3.0, 2.0, 1.0], write_chunk="128"),
        *along("gdn+swa:fwmlp@1,3", [3.0, 2.0, 1.03], arm="frozen"),
    ]
    (axes,) = draw(rows)["loss-by-position"].axes
    colour = style.colours([FWPKM])[FWPKM]
    drawn = [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines]
    assert len(drawn) == 5, "the same with writes off is drawn once"
    assert [0, 0, 0] in drawn
    ours = [np.asarray(line.get_ydata(), float).tolist() for line in axes.lines if line.get_color() == colour]
    assert ours == [pytest.approx([0.1, -0.5, -0.75]), pytest.approx([0, 0.25, 0])]
    told = captions(rows)["loss-by-position"]
    assert "away from the same with writes: gdn+swa:fwmlp@1,3." in told


def test_a_lone_model_shows_its_loss_itself(draw: Draw) -> None:
    figure = draw(along(FWPKM, [3.0, 1.5]))["loss-by-position"]
    assert np.asarray(figure.axes[0].lines[0].get_ydata()).tolist() == [3.0, 1.5]
    assert "less those of" not in words(figure)


def test_only_of_the_embedded_text_is_it_said_that_no_model_was_trained_on_it() -> None:
    for dataset, said_so in (("source", True), ("novels", False)):
        rows = [*bits(PLAIN, 2.0, dataset=dataset), *bits(FWPKM, 1.5, dataset=dataset)]
        assert ("that no model was trained on" in captions(rows)["bits-per-byte"]) == said_so
