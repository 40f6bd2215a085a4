"""Whole models in the benchmark, and the stopwatch of a GPU, with a GPU that is made up."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fwpkm_eval import cli
from fwpkm_eval.bench import models, peers, piece_measure, session, stopwatch, worker
from fwpkm_eval.bench.models import ModelCase, ModelSpeed, model_rows, run_models
from fwpkm_eval.malloc import is_glibc
from fwpkm_eval.reporting.tables_speed import bench_tables
from fwpkm_eval.runs.rows import read_rows_csv, rows_to_frame

pytestmark = pytest.mark.usefixtures("one_thread")


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    return json.loads(json.dumps(worker.do(json.loads(json.dumps(job)))))


def speed(name: str, training: list[float], reading: list[float]) -> ModelSpeed:
    seconds = {"training": training, "reading": reading}
    return ModelSpeed(ModelCase(name, "micro", 2, 100), seconds, {"training": 5, "reading": 3}, 10, 9, "cpu", 1)


def test_rates_and_shares_of_the_backbone() -> None:
    found = [speed("gdn", [1.0] * 3, [0.5] * 3), speed("gdn:fwpkm@1", [2.0] * 3, [0.4] * 3)]
    rows = {(row.model, row.metric): row for row in model_rows(found, "gdn")}
    assert rows["gdn", "samples_per_second_training"].value == 2
    assert rows["gdn", "tokens_per_second_reading"].value == 400
    assert rows["gdn:fwpkm@1", "share_of_backbone_speed_training"].value == 0.5
    assert rows["gdn:fwpkm@1", "share_of_backbone_speed_reading"].value == 1.25
    assert ("gdn", "share_of_backbone_speed_training") not in rows
    assert rows["gdn:fwpkm@1", "parameters"].value == 10
    assert rows["gdn", "peak_bytes_training"].value == 5


def test_on_a_gpu_rows_and_table_name_what_ran_the_recurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwpkm_eval.kernels.backends.resolve_backend", lambda name, device: "triton")
    gpu, low = torch.device("cuda"), torch.bfloat16
    for rule, name in (("fla", "triton, fla"), ("torch", "triton")):
        monkeypatch.setattr("fwpkm_eval.reference_models.gated_delta.delta_rule_backend", lambda *_, found=rule: found)
        assert (models.backends(gpu, low), models.backends(torch.device("cpu"), low)) == (name, "")
    found = [replace(speed("gdn", [1.0] * 3, [0.5] * 3), device_name="a GPU", backend="triton, fla")]
    (table,) = bench_tables(rows_to_frame(list(model_rows(found, "gdn"))))
    assert "(a GPU, by triton, fla);" in table.note


def test_models_are_trained_and_read() -> None:
    told: list[str] = []
    cases = [ModelCase(name, "micro", 1, 130) for name in ("gdn", "gdn:fwpkm@1")]
    found = run_models(cases, failed={}, threads=1, repeats=3, budget=60, runner=here, tell=told.append)
    assert [len(one.seconds[what]) for one in found for what in models.PASSES] == [3] * 4
    assert all(min(one.seconds["training"]) > min(one.seconds["reading"]) for one in found)
    assert found[1].parameters > found[0].parameters
    assert found[1].active_parameters < found[1].parameters
    assert told == [f"{case.name} at scale micro, 1 x 130 tokens" for case in cases]


@pytest.mark.skipif(not is_glibc(), reason="malloc_trim is glibc's")
def test_memory_that_training_left_behind_does_not_hide_what_reading_needs() -> None:
    """With malloc told to keep what is freed, in a process of its own, as the command measures."""
    job = {"what": "model", "threads": 1, "repeats": 3, "budget": 60, "size": {"name": "gdn"}}
    case = ModelCase("gdn", "micro", 4, 1000)
    found = worker.run_in_process_of_its_own({**job, "case": dataclasses.asdict(case)}, "tuned")
    logits = 4 * 4 * 1000 * 257
    assert found["peak_bytes"]["training"] > found["peak_bytes"]["reading"] > logits


def test_the_command_stores_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "run_in_process_of_its_own", here)
    asked = ["bench", "--what", "models", "--models", "gdn,gdn:fwpkm@1", "--length", "130", "--repeats", "3"]
    assert cli.main([*asked, "--threads", "1", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert "gdn:fwpkm@1" in shown
    rows = read_rows_csv(tmp_path / "out" / "rows.csv")
    assert {row.model for row in rows} == {"gdn", "gdn:fwpkm@1"}
    assert {row.device for row in rows} == {"cpu"}
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(("repeats", "budget", "calls"), [(5, 0.0, 3), (2, 0.0, 2), (4, 60.0, 4), (5, 6.5, 4)])
def test_calls_are_timed_within_a_budget_but_not_before_three(repeats: int, budget: float, calls: int) -> None:
    class Watch(stopwatch.ProcessorWatch):
        def seconds(self, call: Callable[[], Any]) -> float:
            call()
            return 2.0

    done: list[int] = []
    asked = (lambda number=number: done.append(number) for number in itertools.count())
    assert stopwatch.time_calls(Watch(), asked, repeats, budget) == [2.0] * calls
    assert done == list(range(calls))


SIZE = {
    "name": "small",
    "subkeys": 12,
    "key_dim": 16,
    "value_dim": 20,
    "heads": 1,
    "topk": 3,
    "chunk": 16,
    "tokens": 50,
}
MODEL = {"name": "gdn", "scale": "micro", "batch": 1, "length": 20}


@pytest.mark.parametrize(
    "job",
    [
        {"what": "forward", "arm": "scan/torch", "size": SIZE, "seed": 0},
        {"what": "pieces", "backend": "torch", "size": SIZE, "seed": 0},
        {"what": "layer", "layer": "fwpkm_eval", "pass": "forward", "size": {**SIZE, "device": "cpu"}},
        {"what": "model", "case": {**MODEL, "device": "cpu"}, "size": {"name": "gdn"}},
    ],
    ids=lambda job: job["what"],
)
def test_no_garbage_is_collected_while_anything_is_timed(job: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    collects: list[bool] = []

    class Watch(stopwatch.ProcessorWatch):
        def seconds(self, call: Callable[[], Any]) -> float:
            collects.append(gc.isenabled())
            return super().seconds(call)

    monkeypatch.setattr(stopwatch, "ProcessorWatch", Watch)
    monkeypatch.setattr(peers, "limit_memory", lambda limit: None)
    monkeypatch.setattr(piece_measure, "measure_bandwidth", lambda device: 1.0)
    job = {"threads": 1, "repeats": 4, "budget": 60.0, **job, "size": {"device": "cpu", **job["size"]}}
    worker.do(job)
    assert collects[-4:] == [False] * 4
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("queued", "before_the_call"),
    [(False, ["flush", "synchronize"]), (True, ["flush"] * stopwatch.HEAD_START)],
)
def test_a_gpus_time_is_that_of_its_events_with_its_cache_emptied(
    queued: bool, before_the_call: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queued, nothing waits between the flush and the call: the GPU is busy while Python launches the kernels."""
    happened: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            happened.append("record")

        def elapsed_time(self, end: Event) -> float:
            return 1500.0

    def read(memory: int, dim: int, out: tuple[()]) -> None:
        assert memory * 4 == 4 * 80 * 2**20
        assert out == ()
        happened.append("flush")

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "made-up GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=80 * 2**20))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: happened.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: happened.append("reset"))
    monkeypatch.setattr(torch, "zeros", lambda size, **options: size)
    monkeypatch.setattr(torch, "sum", read)
    watch = stopwatch.stopwatch("cuda:0", queued)
    assert watch.device_name == "made-up GPU"
    assert watch.seconds(lambda: happened.append("call")) == 1.5
    assert happened == [*before_the_call, "record", "call", "record", "synchronize"]
    watch.reset_peak()
    assert happened[-1] == "reset"
    assert (watch.held_bytes(), watch.peak_bytes()) == (3, 7)


def test_a_processors_time_ends_before_what_was_returned_is_freed() -> None:
    import time

    class SlowToGo:
        def __del__(self) -> None:
            time.sleep(0.2)

    watch = stopwatch.stopwatch("cpu")
    assert watch.seconds(SlowToGo) < 0.1
    assert watch.device_name == "cpu"
