"""A run that is given more to measure goes on in its folder: what is there is not measured again, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measuring_cases import models, run, two_checkpoints_and_two_sets
from test_shared_runs import numbered, run_as

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.growth import LISTS, is_beside, is_more_of
from fwpkm_eval.runs.manifest import check_or_create, load_manifest, update_manifest
from fwpkm_eval.runs.rows import read_rows_csv

CONFIG: dict[str, Any] = {"command": "niah", "lengths": [4096], "models": ["gdn"], "samples": 5, "depths": [0.5]}


@pytest.mark.parametrize(
    "change",
    [
        {"lengths": [4096, 32768]},
        {"lengths": [32768, 4096]},
        {"lengths": [4096, 32768], "models": ["fa", "gdn"]},
        {"models": ["gdn", "gdn"]},
    ],
)
def test_a_run_may_grow_and_not_shrink_again(tmp_path: Path, change: dict[str, Any]) -> None:
    started = check_or_create(tmp_path, CONFIG, command=["first"])["started"]
    update_manifest(tmp_path, cells=["k1"], finished=True)
    grown = check_or_create(tmp_path, CONFIG | change, command=["second"])
    assert grown["config"] == CONFIG | change
    assert (grown["command"], grown["started"], grown["finished"]) == ("second", started, None)
    assert grown["cells"] == ["k1"], "until the larger run has ended, its report is of what there was"
    with pytest.raises(UserError, match=r"holds more than this run: .* there and .* here; ask for all of it, or"):
        check_or_create(tmp_path, CONFIG)
    assert load_manifest(tmp_path) == grown


@pytest.mark.parametrize(
    ("change", "told_how"),
    [
        ({"lengths": [32768]}, True),
        ({"lengths": [4096, 32768], "samples": 6}, False),
        ({"lengths": [32768], "samples": 6}, False),
        ({"depths": [0.5, 0.6]}, False),
        ({"lengths": [4096, 32768], "command": "trace"}, False),
        ({"models": ["fa"]}, True),
    ],
)
def test_what_is_not_more_of_the_same_is_refused(tmp_path: Path, change: dict[str, Any], told_how: bool) -> None:
    check_or_create(tmp_path, CONFIG)
    with pytest.raises(UserError, match="holds another run") as error:
        check_or_create(tmp_path, CONFIG | change)
    assert str(error.value).endswith("or name what is there beside what is new") == told_how
    assert (load_manifest(tmp_path) or {})["config"] == CONFIG


def test_a_benchmark_does_not_grow(tmp_path: Path) -> None:
    check_or_create(tmp_path, {"task": "bench", "models": ["gdn"]}, grows=False)
    with pytest.raises(UserError, match=r"or the same settings$"):
        check_or_create(tmp_path, {"task": "bench", "models": ["gdn", "fa"]}, grows=False)


def test_numbers_that_only_add_may_grow_and_others_not() -> None:
    plain: dict[str, Any] = {"command": "reproduce", "only": ["ppl"], "budget_seconds": 60.0}
    assert is_more_of(plain, plain | {"budget_seconds": 61.0})
    assert not is_more_of(plain, plain | {"budget_seconds": 59.0})
    assert is_more_of(plain, plain | {"seeds": 2}), "no number of seeds is 1"
    assert not is_more_of(plain | {"seeds": 2}, plain)
    ablated = plain | {"only": ["ablation", "ppl"]}
    assert not is_more_of(ablated, ablated | {"seeds": 2}), "it had three where none were asked for"
    assert is_more_of(ablated | {"seeds": 1}, ablated | {"seeds": 2})
    assert not is_more_of({"samples": 5}, {"samples": 6})


CONFIGS = st.fixed_dictionaries(
    {name: st.lists(st.sampled_from(["a", "b", 1, True]), max_size=4) for name in LISTS[:3]}
    | {"samples": st.integers(1, 2)}
)


@given(CONFIGS, CONFIGS, CONFIGS)
def test_growing_has_an_order(first: dict[str, Any], second: dict[str, Any], third: dict[str, Any]) -> None:
    assert not is_more_of(first, first)
    if is_more_of(first, second) and is_more_of(second, third):
        assert json.dumps(first) == json.dumps(third) or is_more_of(first, third)
    both = {name: first[name] + second[name] if name in LISTS else first[name] for name in first}
    if both != first:
        assert is_more_of(first, both)
    assert is_beside(first, second) == (first["samples"] == second["samples"] and any(second[n] for n in LISTS[:3]))


@pytest.mark.usefixtures("without_workers", "one_thread")
def test_a_length_and_a_model_more_give_the_rows_of_a_run_made_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fwpkm_eval.reporting.plots.build_plots", lambda *arguments: [])  # they take long
    folder = two_checkpoints_and_two_sets(tmp_path)
    asked = ["niah", "--data", str(folder / "data"), "--haystack", "tales", "--samples", "1", "--passes", "1"]
    larger = ["--models", models(folder), "--lengths", "300,400"]

    def measured(out: Path) -> list[Any]:
        rows = read_rows_csv(out / "rows.csv")
        return sorted(
            (row.model, row.length, row.metric, row.write_chunk, str(row.value))
            for row in rows
            if row.metric in ("exact_match", "answer_logprob")
        )

    grown, at_once = tmp_path / "grown", tmp_path / "at-once"
    assert run(*asked, "--models", str(folder / "fwpkm"), "--lengths", "300", "--out", str(grown)) == 0
    before = {path: path.stat().st_mtime_ns for path in (grown / "cells").iterdir()}
    assert run(*asked, *larger, "--out", str(grown)) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert run(*asked, *larger, "--out", str(at_once)) == 0
    assert measured(grown) == measured(at_once)
    cells = [set(json.loads((out / "manifest.json").read_text())["cells"]) for out in (grown, at_once)]
    assert cells[0] == cells[1]
    capsys.readouterr()
    assert run(*asked, "--models", str(folder / "fwpkm"), "--lengths", "500", "--out", str(grown)) == 2
    assert "lengths is [300, 400] there and [500] here" in capsys.readouterr().err


@pytest.mark.parametrize("ended", [True, False])
def test_a_smaller_run_that_ends_after_a_larger_one_took_its_folder_on_loses_nothing(
    ended: bool, tmp_path: Path
) -> None:
    small, large = {"command": "x", "lengths": [1]}, {"command": "x", "lengths": [1, 2]}
    everything = numbered(6)

    def meanwhile() -> None:
        run_as(large, tmp_path, everything)
        if not ended:  # a cell of it failed, say
            update_manifest(tmp_path)

    run_as(small, tmp_path, everything[:2], meanwhile)
    manifest = load_manifest(tmp_path) or {}
    assert bool(manifest["finished"]) == ended
    assert manifest["config"] == large
    assert sorted(manifest["cells"]) == sorted(job.cell.key for job in everything)
    assert sorted(row.value or 0 for row in read_rows_csv(tmp_path / "rows.csv")) == [0, 1, 2, 3, 4, 5]


def test_auto_and_the_device_that_it_means_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_or_create(tmp_path, CONFIG | {"device": "auto"})
    check_or_create(tmp_path, CONFIG | {"device": "cpu"})
    check_or_create(tmp_path, CONFIG | {"device": "auto", "lengths": [4096, 8192]})
    with pytest.raises(UserError, match='device is "cpu" there and "cuda" here'):
        check_or_create(tmp_path, CONFIG | {"device": "cuda", "lengths": [4096, 8192]})
