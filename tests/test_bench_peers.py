"""Our layer beside a peer's: what is timed, and the ratio of the two."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from fwpkm_eval.bench import peers, worker
from fwpkm_eval.bench.ops import Measurement, OpSize
from fwpkm_eval.bench.peers import OURS, PEER, LayerSpeed, peer_rows, run_peers
from fwpkm_eval.reporting.compare import compare_rows
from fwpkm_eval.reporting.tables_bench import operation_tables
from fwpkm_eval.runs.rows import rows_to_frame

SIZE = OpSize("small", subkeys=12, key_dim=16, value_dim=20, heads=1, topk=3, chunk=16, tokens=48)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "limit_memory", lambda limit: None)  # it would be that of the tests' own process


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    return worker.do({**job, "threads": 1})


def measurement(*seconds: float) -> Measurement:
    return Measurement(list(seconds), 1.0, 10, 4, threads=1)


def speeds() -> list[LayerSpeed]:
    ours = {"forward": measurement(0.1, 0.2, 0.3), "training": measurement(1.0)}
    theirs = {"forward": measurement(2.0, 4.0, 6.0), "training": measurement(5.0)}
    return [LayerSpeed(OURS, "1", SIZE, ours), LayerSpeed(PEER, "2", SIZE, theirs)]


def test_our_layer_reads_and_writes_in_chunks_with_gradients() -> None:
    layer = peers._ours(SIZE)
    call = peers._call(layer, "training", SIZE)
    gradients = [slope for slope in call() if slope is not None]
    assert len(gradients) == len(layer.parameters) + 1
    assert all(bool(slope.isfinite().all()) for slope in gradients)
    before = peers._call(layer, "forward", SIZE)()
    assert not torch.equal(before, peers._call(layer, "forward", SIZE)()), "the second call reads what the first wrote"


@pytest.mark.parametrize("layer", [OURS, PEER])
@pytest.mark.parametrize("what", peers.PASSES)
def test_each_layer_can_be_timed(layer: str, what: str) -> None:
    if layer == PEER:
        pytest.importorskip("fast_weight_product_key_memory")
    size = dict(vars(SIZE))
    job = {"what": "layer", "layer": layer, "pass": what, "size": size, "threads": 1, "repeats": 3, "budget": 1.0}
    measured = Measurement(**here(job, "tuned"))
    assert len(measured.seconds) == 3
    assert min(measured.seconds) > 0


def test_rows_and_table_tell_how_many_times_as_fast() -> None:
    rows = list(peer_rows(speeds()))
    found = {(row.arm, row.metric): row for row in rows}
    ratio = found["layer/fwpkm_eval", "speedup_over_peer_forward"]
    assert ratio.value == pytest.approx(20)
    assert ratio.ci_low == pytest.approx(2.4 / 0.28)
    assert found[f"layer/{PEER} 2", "forward_seconds"].value == 4
    assert not any(arm.startswith(f"layer/{PEER}") and "speedup" in metric for arm, metric in found)
    tables, rest = operation_tables(rows_to_frame(rows))
    (table,) = tables
    assert rest.empty
    assert [[cell.text for cell in row][:2] for row in table.rows] == [
        ["forward", "fwpkm_eval"],
        ["forward", f"{PEER} 2"],
        ["training", "fwpkm_eval"],
        ["training", f"{PEER} 2"],
    ]
    assert table.rows[0][3].text.startswith("20 (")


def test_the_next_release_compares_its_layer_with_this_ones() -> None:
    ours, theirs = speeds()
    before = list(peer_rows([ours, theirs]))
    after = list(peer_rows([dataclasses.replace(ours, version="2"), theirs]))
    found = compare_rows(before, after)
    assert (found.only_before, found.only_after, found.same) == ([], [], len(before))
    another_peer = list(peer_rows([ours, dataclasses.replace(theirs, version="3")]))
    assert len(compare_rows(before, another_peer).only_before) == 4


def test_a_pass_that_the_memory_is_too_small_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(size: OpSize) -> peers._Layer:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr(peers, "peer_version", lambda: "2")
    monkeypatch.setitem(peers._LAYERS, PEER, too_large)
    told: list[str] = []
    found = run_peers(SIZE, failed={}, threads=1, repeats=3, budget=0.1, runner=here, remark=told.append)
    assert told[-1] == f"layer of {PEER} 2, training: not measured, it needs more memory than there is"
    assert found[1].measured == {}
    assert not any("peer" in row.metric for row in peer_rows(found))
    (table,), _ = operation_tables(rows_to_frame(peer_rows(found)))
    assert [row[0].text for row in table.rows] == ["forward", "training"]
    assert {row[1].text.partition(" ")[0] for row in table.rows} == {OURS}


def test_without_the_peer_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told: list[str] = []
    assert run_peers(SIZE, failed={}, threads=1, repeats=3, budget=1.0, runner=here, remark=told.append) == []
    assert told == [f"{PEER} is not installed: no ratio to it (pip install 'fwpkm-eval[peers]')"]
