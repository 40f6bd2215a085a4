"""Capacity: each size is a model of its own, asked in closed book for more and more needles."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plot_cases import Draw, uprights
from tiny_models import SIZES

from fwpkm_eval import capacity, cli
from fwpkm_eval.ablations import AblationPlan, ablated_config
from fwpkm_eval.capacity import MemorySize, capacity_plan, models_of, sizes_of
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reporting.commands import commands
from fwpkm_eval.reporting.plots_capacity import capacity_plots
from fwpkm_eval.reporting.style import STEPS, styled
from fwpkm_eval.reporting.summary_capacity import capacity_findings
from fwpkm_eval.reporting.tables_capacity import capacity_results, capacity_tables, usual_size
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame
from fwpkm_eval.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("size", [MemorySize(16, 64), MemorySize(512, 512)])
def test_a_size_is_read_back_from_its_name(size: MemorySize) -> None:
    assert MemorySize.of(size.name) == size


def test_every_number_of_slots_and_every_width_once() -> None:
    config = model_config("gdn+swa:fwpkm@2", "micro", **{"fwpkm.subkeys": 128})
    found = sizes_of(config, (32, 128), (16, 64))
    assert found == [MemorySize(32, 64), MemorySize(128, 64), MemorySize(128, 16)]
    plan = capacity_plan("micro")
    for size, trained in zip(found, models_of(found, "dot"), strict=True):
        own = ablated_config(plan.model, "micro", plan, trained).fwpkm
        assert (own.subkeys, own.value_dim, own.score) == (size.subkeys, size.value_dim, "dot")


def test_only_the_fast_weights_can_hold_an_answer() -> None:
    assert capacity_plan("micro").protocols == ("closed-book",)


def row(size: MemorySize, needles: int, value: float, seed: int, passes: int = 1) -> Row:
    return Row(
        task="capacity", metric="exact_match", unit="fraction", value=value, n=10, arm=size.name, needles=needles,
        seed=seed, length=8192, passes=passes, write_chunk="haystack", model="gdn+swa:fwpkm@2", score="idw",
    )  # fmt: skip


ROWS = [
    row(size, needles, value + 0.1 * (seed - 0.5) * (needles == 128), seed, passes)
    for size, values in (
        (MemorySize(16, 64), (1.0, 0.1)),
        (MemorySize(128, 64), (1.0, 0.8)),
        (MemorySize(128, 16), (0.9, 0.4)),
    )
    for needles, value in zip((4, 128), values, strict=True)
    for seed in (0, 1)
    for passes in (1, 2)
]


def test_seeds_are_pooled_and_the_most_held_is_told() -> None:
    found = capacity_results(rows_to_frame(ROWS))
    assert [way.passes for way in found] == [1, 2]
    of_size = next(iter(found.values()))
    assert list(of_size) == [MemorySize(16, 64), MemorySize(128, 16), MemorySize(128, 64)]
    measured = of_size[MemorySize(128, 64)].pooled[128]
    assert measured.value == pytest.approx(0.8)
    assert (measured.n, measured.seeds) == (20, 2)
    assert of_size[MemorySize(16, 64)].most_held == pytest.approx(12.8)
    table = capacity_tables(rows_to_frame(ROWS))[0]
    assert table.columns == ("slots", "dv", "4 needles", "128 needles", "most held")
    assert table.rows[2][0].text == "16,384"
    assert [cell.strong for cell in table.rows[2]] == [False, False, True, True, False]
    assert table.rows[2][-1].text == "102 (96–109)"  # 0.75 and 0.85 of 128


@pytest.mark.parametrize(
    ("sizes", "usual"),
    [
        ([(32, 64), (64, 64), (128, 16)], (128, 64)),  # as --subkeys 32,64 --value-dims 16 has them
        ([(16, 64), (128, 64), (128, 16)], (128, 64)),
        ([(128, 16), (128, 32), (256, 64)], (128, 64)),
        ([(128, 64)], (128, 64)),
    ],
)
def test_no_size_is_left_out_of_plot_and_command(sizes: list[tuple[int, int]], usual: tuple[int, int]) -> None:
    found = [MemorySize(*size) for size in sizes]
    assert usual_size(found) == MemorySize(*usual)
    rows = rows_to_frame([row(size, 4, 0.5, 0) for size in found])
    (command, _) = commands(rows, None)
    asked = dict(zip(command.value.split()[2::2], command.value.split()[3::2], strict=False))
    own = model_config("gdn+swa:fwpkm@2", "micro", **{"fwpkm.subkeys": usual[0], "fwpkm.value_dim": usual[1]})
    numbers, widths = ([int(one) for one in asked[name].split(",")] for name in ("--subkeys", "--value-dims"))
    assert set(found) <= set(sizes_of(own, numbers, widths))


def test_one_training_of_each_size_is_told_as_that() -> None:
    (table,) = capacity_tables(rows_to_frame([row(MemorySize(16, 64), 4, 0.5, 0)]))
    assert "10 haystacks of one training, in brackets 95% intervals" in table.note
    assert table.note.endswith("times the share that was found.")


def test_the_report_tells_the_most_held_after_the_most_readings() -> None:
    (finding,) = capacity_findings(rows_to_frame(ROWS))
    assert finding.text == (
        "Most needles held (in brackets: the seeds apart) at 8K, closed book, one write per reading, 2 readings: 13 "
        "(6–19) in 256 slots and 102 (96–109) in 16,384 slots (dv 64); in 16,384 slots 51 (45–58) at dv 16 and 102 "
        "(96–109) at dv 64."
    )


def test_the_plot_shows_slots_and_widths_after_the_most_readings() -> None:
    with styled():
        (plot,) = capacity_plots(rows_to_frame(ROWS))
    assert plot.name == "capacity-8k-haystack"
    assert "2 readings" in plot.title
    assert "from the worst seed to the best" in plot.caption
    assert not capacity_plots(rows_to_frame([]))


def test_the_plot_shows_every_seed_and_what_they_span(draw: Draw) -> None:
    slots, widths = draw(ROWS)["capacity-8k-haystack"].axes
    many = [line for line in slots.lines if line.get_label() == "16,384"]
    assert [np.asarray(line.get_ydata()).tolist() for line in many] == [pytest.approx([100, 80])]
    assert [ends for _, *ends in uprights(slots)] == [[100, 100], [5, 15], [100, 100], [75, 85]]
    seeds = [np.asarray(line.get_ydata()).tolist() for line in slots.lines if line.get_marker() == "_"]
    assert seeds == [pytest.approx(each) for each in ([100, 100], [5, 15], [100, 100], [75, 85])]
    colours = [line.get_color() for line in widths.lines if not str(line.get_label()).startswith("_")]
    assert colours == [STEPS[0], STEPS[-1]], "from little to much"


def test_the_command_trains_asks_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chooser = random.Random(0)
    for split in ("train", "test"):
        words = ["".join(chooser.choices("abcdefghijkl", k=4)) for _ in range(40)]
        path = tmp_path / "data" / "tales" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({"text": " ".join(chooser.choices(words, k=300))}) + "\n" for _ in range(3)))
    recipe = Recipe(
        steps=2, tokens=128, warmup=1, needle_share=1.0, dense_share=1.0, chunks=(32,), document_pieces=2, sets=("x",)
    )
    plan = AblationPlan(
        "fa:fwpkm@1", recipe, {**SIZES, "fwpkm.topk": 2}, samples=1, passes=(1,), write_chunks=(64,),
        protocols=("closed-book",), text="x", tokens=100,
    )  # fmt: skip
    monkeypatch.setattr(capacity, "capacity_plan", lambda scale: replace(plan))
    out = tmp_path / "out"
    command = ["capacity", "--subkeys", "4,16", "--value-dims", "8", "--needles", "2,3", "--length", "300"]
    command += ["--seeds", "1", "--workers", "1", "--quiet", "--data", str(tmp_path / "data"), "--out", str(out)]
    assert cli.main([*command, "--dry-run"]) == 0
    assert "3 models to train" in capsys.readouterr().out
    assert cli.main(command) == 0
    first = read_rows_csv(out / "rows.csv")
    assert {row.arm for row in first} == {"S 4, dv 16", "S 16, dv 16", "S 16, dv 8"}
    assert {row.protocol for row in first if row.metric == "exact_match"} == {"closed-book"}
    assert "Capacity: needles found at 300" in capsys.readouterr().out
    (out / "rows.csv").unlink()
    assert cli.main(command) == 0
    assert read_rows_csv(out / "rows.csv") == first
    assert list((out / "plots").glob("capacity-*.svg"))
