"""Training steps beside dense autograd in the benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from training_cases import TINY, tiny_training_config, write_words

from fwpkm_eval import cli
from fwpkm_eval.bench import session, training, worker
from fwpkm_eval.bench.training import TrainingCase, TrainingTimes, run_training, training_rows
from fwpkm_eval.reporting.tables_bench import operation_tables
from fwpkm_eval.runs.rows import read_rows_csv, rows_to_frame
from fwpkm_eval.training import speed

pytestmark = pytest.mark.usefixtures("one_thread")

CASE = TrainingCase("gdn:fwpkm@1", "micro")


def times(allocator: str, sparse: list[float], dense: list[float]) -> TrainingTimes:
    return TrainingTimes(CASE, allocator, 100, sparse, dense, 1e-6, 1e-3, "cpu", 1)


FOUND = [times("default", [2.0, 2.0], [4.0, 8.0]), times("tuned", [1.0, 1.0], [1.0, 3.0])]


def test_ratios_are_over_the_same_steps_and_say_whose_malloc_is_which() -> None:
    rows = {(row.metric, row.arm): row for row in training_rows(FOUND)}
    ratio = "training_ratio_to_dense_autograd"
    assert rows[ratio, "default malloc against default malloc"].value == 3
    assert rows[ratio, "tuned malloc against tuned malloc"].value == 2
    assert rows[ratio, "tuned malloc against default malloc"].value == 6
    assert (rows[ratio, "tuned malloc against tuned malloc"].ci_low or 0) == pytest.approx(1.2)
    assert (rows[ratio, "tuned malloc against tuned malloc"].ci_high or 0) == pytest.approx(2.8)
    assert rows["training_tokens_per_second", "sparse closed form, tuned malloc"].value == 100
    assert rows["training_tokens_per_second", "dense autograd, default malloc"].value == pytest.approx(200 / 12)
    alone = [row.arm for row in training_rows(FOUND[:1]) if row.metric == ratio]
    assert alone == ["default malloc against default malloc"]


def test_the_table_holds_them_and_leaves_nothing_over() -> None:
    tables, rest = operation_tables(rows_to_frame(list(training_rows(FOUND))))
    assert rest.empty
    (table,) = tables
    assert tuple(cell.text for cell in table.rows[2][1:]) == (
        "tuned malloc",
        "100",
        "default malloc",
        "17",
        "6 (4.4–7.6)×",
    )
    assert "losses agree to 1e-03" in table.note


def test_the_command_trains_in_both_ways_and_stores_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_words(tmp_path / "data")
    jobs = []

    def in_both_ways(config: Any, recipe: Any, steps: int, device: str) -> speed.TrainingSpeed:
        return TRAINED(tiny_training_config("gdn:fwpkm@1"), TINY, steps, data, device)

    def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        jobs.append((job["what"], allocator))
        found = json.loads(json.dumps(worker.do(json.loads(json.dumps(job)))))
        assert isinstance(found, dict)
        return found

    monkeypatch.setattr(speed, "training_speed", in_both_ways)
    monkeypatch.setattr(session, "run_in_process_of_its_own", here)
    asked = ["bench", "--what", "training", "--repeats", "2", "--threads", "1", "--quiet"]
    assert cli.main([*asked, "--out", str(tmp_path / "out")]) == 0
    assert jobs == [("dense-training", "default"), ("dense-training", "tuned")]
    assert "dense autograd" in capsys.readouterr().out
    rows = read_rows_csv(tmp_path / "out" / "rows.csv")
    assert {row.model for row in rows} == {"gdn+swa:fwpkm@1,3"}
    assert {row.n for row in rows} == {2}
    assert all((row.value or 0) > 0 for row in rows if row.metric != "training_loss_difference")
    assert "Training beside dense autograd" in (tmp_path / "out" / "report.html").read_text()


TRAINED = speed.training_speed


def test_on_a_gpu_malloc_does_not_matter() -> None:
    result = {"tokens": 1, "sparse": [1.0], "dense": [1.0], "first_difference": 0.0, "loss_difference": 0.0}
    result |= {"device_name": "gpu", "threads": 1}
    asked: list[str] = []

    def runner(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
        asked.append(allocator)
        return result

    on_gpu = TrainingCase("gdn:fwpkm@1", "micro", "cuda")
    found = run_training(on_gpu, failed={}, threads=None, repeats=2, runner=runner)
    assert len(found) == training.steps_of_training("cuda") == 1
    assert asked == ["default"]


def test_a_model_without_fwpkm_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--what", "training", "--models", "gdn+swa", "--quiet"]) == 2
    assert "has no fwpkm to compare" in capfd.readouterr().err
