"""Cost: what is timed is what is said, and the model comes out of it as it went in."""

from __future__ import annotations

import ctypes
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import tiny_checkpoint, tiny_config, tiny_model

from fwpkm_eval.bench.memory import resident_bytes
from fwpkm_eval.data import Document, TextSet, hash_documents, load_set
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.malloc import is_glibc, release_freed_memory
from fwpkm_eval.reference_models.flops import flops_per_token
from fwpkm_eval.reference_models.parameters import count_parameters
from fwpkm_eval.reporting.tables_cost import cost_tables
from fwpkm_eval.runs import execute
from fwpkm_eval.runs.engine import Job
from fwpkm_eval.runs.jobs import ModelSource, TextSource, guess_job
from fwpkm_eval.runs.manifest import machine
from fwpkm_eval.runs.measures import cost_job
from fwpkm_eval.runs.rows import Row, rows_to_frame
from fwpkm_eval.tasks import cost
from fwpkm_eval.tasks.cost import CostResult, CostSettings, Timed, cost_rows, evaluate_cost
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
    assert (result.reading.tokens, result.training.tokens) == (300, 2 * 2 * 64)
    assert sum(told) == 300 + 256
    assert 0 < result.reading.seconds + result.training.seconds < seconds
    assert min(result.reading.peak_memory, result.training.peak_memory) > 2**20
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
    result = CostResult(Timed(1000, 2.0, 5 * 2**20), Timed(512, 4.0, 7 * 2**20))
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
    assert values["peak_memory", "training", ""] == 7 * 2**20
    assert {row.length for row in rows.values()} == {128}


def test_the_table_holds_speeds_against_the_same_backbone() -> None:
    rows: list[Row] = []
    for name, seconds in (("gdn+swa", 2.0), ("gdn+swa:fwpkm@1", 5.0)):
        rows += cost_rows(tiny_model(name), SET, SETTINGS, CostResult(Timed(1280, seconds, 2**20)))
    [table] = cost_tables(rows_to_frame(rows))
    lines = {row[0].text: [cell.text for cell in row] for row in table.rows}
    assert lines["gdn+swa"][5:7] == ["5", "–"]
    assert lines["gdn+swa:fwpkm@1"][5:9] == ["2", "40%", "–", "–"]


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
    assert read == [cost.WARM_UP, 300]
    assert result.reading.tokens == 300
    assert torch.is_grad_enabled()


def test_the_memory_of_training_is_that_of_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trained in a copy, beside which the model stays."""
    monkeypatch.setattr("fwpkm_eval.bench.memory.peak_bytes", lambda: 10**9)
    model = tiny_model("gdn+swa:pkm@1")
    held = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    result = evaluate_cost(model, SET, SETTINGS, ByteTokenizer())
    assert result.training is not None
    assert (result.reading.peak_memory, result.training.peak_memory) == (10**9, 10**9 - held)


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
