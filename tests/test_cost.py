"""Cost: what is timed is what is said, and the model comes out of it as it went in."""

from __future__ import annotations

import ctypes
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_config, tiny_model

from fwpkm_eval.bench.memory import resident_bytes
from fwpkm_eval.bench.stopwatch import stopwatch
from fwpkm_eval.data import Document, TextSet, hash_documents, load_set
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.malloc import is_glibc, release_freed_memory
from fwpkm_eval.reference_models.flops import flops_per_token
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.parameters import count_parameters
from fwpkm_eval.reporting.tables_cost import cost_ratios, cost_tables
from fwpkm_eval.runs import execute
from fwpkm_eval.runs.engine import Job
from fwpkm_eval.runs.jobs import ModelSource, TextSource, guess_job
from fwpkm_eval.runs.manifest import machine
from fwpkm_eval.runs.measures import cost_job
from fwpkm_eval.runs.rows import Row, rows_to_frame
from fwpkm_eval.tasks import cost
from fwpkm_eval.tasks.cost import (
    CostResult,
    CostSettings,
    Timed,
    backbone_of,
    cost_rows,
    evaluate_cost,
    timed_tokens,
)
from fwpkm_eval.tasks.niah import NiahSettings

pytestmark = pytest.mark.usefixtures("one_thread")
DOCUMENTS = (Document("0", "How much wood would a woodchuck chuck? " * 20),)
SET = TextSet("verses", "test", DOCUMENTS, "path", None, "made for a test", hash_documents(DOCUMENTS))
SETTINGS = CostSettings(tokens=300, segment=128, steps=2, rows=2, row_tokens=64)


def test_what_is_timed_and_that_the_model_stays_as_it_is() -> None:
    model = tiny_model("gdn+swa:fwpkm@1").eval()
    before = model.weights_hash
    told: list[int] = []
    started = time.perf_counter()
    result = evaluate_cost(model, SET, SETTINGS, ByteTokenizer(), told.append)
    seconds = time.perf_counter() - started
    assert result.training is not None
    assert (result.reading.tokens, result.training.tokens) == (128, 2 * 64)
    of_calls = [result.reading.seconds, result.reading.backbone_seconds]
    of_calls += [result.training.seconds, result.training.backbone_seconds]
    assert [len(found) for found in of_calls] == [2, 2, 2, 2]
    assert sum(told) == 2 * 2 * (128 + 128) == timed_tokens(SETTINGS, 300, True)
    assert min(map(min, of_calls)) > 0
    assert sum(map(sum, of_calls)) < seconds
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert weights < result.reading.peak_memory < weights + 2**24
    assert 3 * weights < result.training.peak_memory < 3 * weights + 2**25
    assert model.weights_hash == before
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_can_be_left_out() -> None:
    result = evaluate_cost(tiny_model("gdn"), SET, replace(SETTINGS, steps=0), ByteTokenizer())
    assert result.training is None


@pytest.mark.skipif(not is_glibc(), reason="malloc_trim is glibc's")
def test_memory_that_was_freed_before_is_not_counted() -> None:
    # Small blocks below a last one that is kept: malloc cannot give them back by itself at the end of its heap.
    blocks = [ctypes.create_string_buffer(2**16) for _ in range(2000)]
    last = ctypes.create_string_buffer(2**10)
    held = resident_bytes()
    blocks.clear()
    release_freed_memory()
    assert resident_bytes() < held - 2**26
    assert len(last) == 2**10


@pytest.mark.parametrize("name", ["gdn+swa", "gdn+swa:pkm@0+fwpkm@1"])
def test_rows(name: str) -> None:
    model = tiny_model(name)
    backbone = [1.0, 2.0, 1.5] if model.config.spec.memories else []
    training = Timed(512, [4.0, 1.0, 16.0], [], 7 * 2**20)
    result = CostResult(Timed(1000, [2.0, 2.5, 1.0], backbone, 5 * 2**20), training)
    rows = {(row.metric, row.protocol, row.arm): row for row in cost_rows(model, SET, SETTINGS, result)}
    values = {key: row.value for key, row in rows.items()}
    assert [values["parameters", "", ""], values["active_parameters", "", ""]] == [*count_parameters(model.config)]
    assert values["flops_per_token", "", ""] == flops_per_token(model.config, 128).total
    if model.has_fast_weights:
        frozen, memory = values["flops_per_token", "", "frozen"], values["memory_flops_per_token", "", ""]
        assert frozen == flops_per_token(model.config, 128, writes=False).total
        assert (frozen or 0) < (values["flops_per_token", "", ""] or 0)
        assert 0 < (memory or 0) < (frozen or 0)
    else:
        assert ("flops_per_token", "", "frozen") not in rows
    assert values["tokens_per_second", "reading", ""] == 500
    assert values["samples_per_second", "reading", ""] == 500 / 128
    assert values["samples_per_second", "training", ""] == 1
    training_speed = rows["tokens_per_second", "training", ""]
    assert (training_speed.value, training_speed.n) == (128, 3)
    assert (training_speed.ci_low, training_speed.ci_high) == pytest.approx((32 + 0.2 * 96, 128 + 0.8 * 384))
    assert (training_speed.seconds, training_speed.tokens) == (21, 3 * 512)
    assert values["peak_memory", "training", ""] == 7 * 2**20
    share = rows.get(("share_of_backbone_speed", "reading", ""))
    if backbone:  # the middle one of the turns' ratios, not the ratio of two medians
        assert share is not None
        assert (share.value, share.n) == (0.8, 3)
        assert (share.ci_low, share.ci_high) == pytest.approx((0.5 + 0.2 * 0.3, 0.8 + 0.8 * 0.7))
    else:
        assert share is None
    assert ("share_of_backbone_speed", "training", "") not in rows
    assert {row.length for row in rows.values()} == {128}


def test_the_table_holds_speeds_against_the_same_backbone() -> None:
    rows: list[Row] = []
    for name, seconds in (("gdn+swa", 2.0), ("gdn+swa:fwpkm@1", 5.0)):
        rows += cost_rows(tiny_model(name), SET, SETTINGS, CostResult(Timed(1280, [seconds])))
    [table] = cost_tables(rows_to_frame(rows))
    lines = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert lines["gdn+swa"][5:7] == ["5", "–"]
    assert lines["gdn+swa:fwpkm@1"][5:9] == ["2", "40%", "–", "–"]
    assert "turns" not in (table.note or "")


def test_turns_with_the_backbone_are_told_before_what_was_timed_apart() -> None:
    reading = Timed(1280, [5.0, 5.0, 5.0], [2.5, 2.5, 4.0])
    rows = cost_rows(tiny_model("gdn+swa"), SET, SETTINGS, CostResult(Timed(1280, [1.0])))
    rows += cost_rows(tiny_model("gdn+swa:fwpkm@1"), SET, SETTINGS, CostResult(reading))
    [table] = cost_tables(rows_to_frame(rows))
    lines = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert lines["gdn+swa:fwpkm@1"][5:9] == ["2", "50% (50–74%)", "–", "–"]
    assert "by turns" in (table.note or "")
    assert cost_ratios(rows_to_frame(rows))["gdn+swa:fwpkm@1"]["time, reading"] == pytest.approx((2, 1 / 0.74, 2))


def test_reading_with_yarn_says_so_and_stands_in_the_same_table() -> None:
    long = replace(SETTINGS, segment=4096)
    rows = []
    for name, seconds in (("fa", 2.0), ("fa:fwpkm@1", 5.0)):
        model = LanguageModel(replace(tiny_config(name), row_tokens=64))
        rows += cost_rows(model, SET, long, CostResult(Timed(4096, [seconds]), Timed(128, [1.0])))
    arms = {(row.protocol, row.arm) for row in rows if row.metric == "tokens_per_second"}
    assert arms == {("reading", "yarn"), ("training", "")}
    [table] = cost_tables(rows_to_frame(rows))
    lines = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert lines["fa:fwpkm@1"][5:9] == ["0.2", "40%", "0.0312", "100%"]


def test_turns_go_to_and_fro(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a machine which grows slower or faster meanwhile favours neither."""
    asked: list[str] = []

    def take(name: str, seconds: float) -> float:
        asked.append(name)
        return seconds

    ours, theirs = partial(take, "ours", 2.0), partial(take, "theirs", 1.0)
    timed = Timed(7)
    told: list[int] = []
    watch = stopwatch("cpu")
    monkeypatch.setattr(watch, "seconds", lambda call: call())
    cost._by_turns(timed, ours, theirs, 3, watch, told.append)
    assert asked == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (timed.seconds, timed.backbone_seconds, told) == ([2.0] * 3, [1.0] * 3, [7] * 6)


def test_the_backbone_is_of_the_models_sizes_and_draws_from_no_ones_generator() -> None:
    model = tiny_model("gdn+swa:pkm@0+fwpkm@1").double().eval()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    backbone = backbone_of(model)
    assert torch.equal(torch.rand(3), expected)
    assert backbone is not None
    assert backbone.config.backbone == model.config.backbone
    assert (backbone.config.name, next(backbone.parameters()).dtype) == ("gdn+swa", torch.float64)
    assert backbone_of(backbone) is None
    assert backbone_of(SimpleNamespace(config=model.config)) is None


def test_a_text_of_less_than_a_segment_is_one_by_itself() -> None:
    result = evaluate_cost(tiny_model("gdn"), SET, replace(SETTINGS, segment=4096, steps=0), ByteTokenizer())
    assert (result.reading.tokens, len(result.reading.seconds)) == (300, 1)
    rows = {row.metric: row for row in cost_rows(tiny_model("gdn"), SET, SETTINGS, result)}
    assert (rows["tokens_per_second"].ci_low, rows["tokens_per_second"].ci_high) == (None, None)


@pytest.mark.parametrize("changes", [{"tokens": 0}, {"rows": 0}, {"steps": -1}, {"segment": -4}])
def test_settings_that_cannot_work(changes: dict[str, int]) -> None:
    with pytest.raises(UserError, match="must be"):
        replace(SETTINGS, **changes)


def test_warm_up_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    whole = cost.read_stream

    def noted(model, stream, *rest, **options):  # type: ignore[no-untyped-def]
        read.append(stream.n_targets)
        return whole(model, stream, *rest, **options)

    monkeypatch.setattr(cost, "read_stream", noted)
    result = evaluate_cost(tiny_model("gdn"), SET, replace(SETTINGS, steps=0), ByteTokenizer())
    # Then one segment for its memory and two for their time.
    assert read == [cost.WARM_UP, 128, 128, 128]
    assert len(result.reading.seconds) == 2
    assert torch.is_grad_enabled()


def test_memory_is_what_the_model_takes_and_not_what_else_the_process_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are there before it reads; it is trained in a copy, which is not."""
    monkeypatch.setattr("fwpkm_eval.bench.memory.resident_bytes", lambda: 9 * 10**8)
    monkeypatch.setattr("fwpkm_eval.bench.memory.peak_bytes", lambda: 10**9)
    model = tiny_model("gdn+swa:pkm@1")
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    result = evaluate_cost(model, SET, SETTINGS, ByteTokenizer())
    assert result.training is not None
    assert (result.reading.peak_memory, result.training.peak_memory) == (10**8 + weights, 10**8)


def test_a_larger_memory_takes_more_whatever_was_held_before() -> None:
    small = tiny_config("gdn+swa:pkm@1")
    large = LanguageModel(replace(small, pkm=replace(small.pkm, subkeys=256, value_dim=256)))
    ballast = np.ones(2**25)
    first = evaluate_cost(large, SET, SETTINGS, ByteTokenizer())
    del ballast
    second = evaluate_cost(large, SET, SETTINGS, ByteTokenizer())
    values = 256 * 256 * 256 * 4
    for result in (first, second):
        assert result.training is not None
        assert values <= result.reading.peak_memory < values + 2**26
        # With the gradient, Adam's two averages, two tensors that the optimizer's step takes, and where malloc keeps
        # what is freed (an earlier test of this process may have told it to) one that no hole of the heap could hold.
        assert 4 * values <= result.training.peak_memory < 7 * values + 2**26


def test_what_is_timed_is_timed_alone_and_is_of_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def job(**facts: Any) -> Job:
        monkeypatch.setattr("fwpkm_eval.runs.manifest.machine", lambda device: {**here, **facts})
        return cost_job(ModelSource(Path("there"), tiny_config("gdn"), "aa"), TextSource("embedded", SET), SETTINGS)

    here = {**machine(), "processor": "one"}
    assert job().alone
    assert job().cell.settings["machine"] == {"processor": "one", "cores": here["cores"]}
    assert CostSettings(**job().cell.settings["task"]) == SETTINGS
    assert job().cell.key == job(memory_gib=1.0).cell.key
    assert len({job().cell.key, job(processor="other").cell.key, job(cores=-1).cell.key}) == 3


def test_no_other_model_is_held_while_something_is_timed(tmp_path: Path) -> None:
    (tmp_path / "verses").mkdir()
    (tmp_path / "verses" / "test.jsonl").write_text(json.dumps({"text": "Peter Piper"}), encoding="utf-8")
    text = TextSource(str(tmp_path), load_set(str(tmp_path), "verses", "test"))
    execute._load_model(str(tiny_checkpoint("gdn", tmp_path / "gdn")), "cpu", "float32")
    guessing = guess_job(text, NiahSettings())
    for alone in (False, True):
        execute.execute(replace(guessing, alone=alone), lambda tokens: None)
        assert (execute._load_model.cache_info().currsize == 0) is alone


def test_on_a_gpu_that_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwpkm_eval.devices.resolve_device", lambda name: torch.device("cuda:1"))
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"a GPU at {device}")
    source = ModelSource(Path("there"), tiny_config("gdn"), "aa", "cuda:1")
    job = cost_job(source, TextSource("embedded", SET), SETTINGS)
    assert job.cell.settings["machine"]["gpu"] == "a GPU at cuda:1"
