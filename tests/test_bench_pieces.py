"""The single operations of the benchmark: they agree with the reference, and a wrong one is found out, not timed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fwpkm_eval.bench import correctness, ops, pieces, rows, run, worker
from fwpkm_eval.bench.correctness import Agreement
from fwpkm_eval.bench.ops import IN_PLACE, REFERENCE, Measurement, OpSize
from fwpkm_eval.bench.piece_measure import (
    PieceMeasurement,
    check_pieces,
    measure_bandwidth,
    measure_pieces,
    worst_error,
)
from fwpkm_eval.bench.pieces import PIECES, chunks_of
from fwpkm_eval.bench.run import BenchResult, Case
from fwpkm_eval.kernels.product_keys import lookup, split_query

SMALL = OpSize("small", subkeys=12, key_dim=16, value_dim=20, heads=2, topk=3, chunk=16, tokens=50)
ON_DEVICE = dataclasses.replace(SMALL, device="cuda" if torch.cuda.is_available() else "cpu")
"""Where Triton runs: compiled on a GPU, in its interpreter elsewhere."""
pytestmark = pytest.mark.usefixtures("one_thread")


def here(job: Mapping[str, Any], allocator: str) -> dict[str, Any]:
    """A measurement in this process, through JSON as in one of its own."""
    return json.loads(json.dumps(worker.do({**json.loads(json.dumps(job)), "budget": 0.05})))


def test_every_operation_agrees_with_the_reference() -> None:
    errors = check_pieces(SMALL, 0, ("torch",))["torch"]
    assert set(errors) == set(PIECES)
    assert max(errors.values()) < 1e-5


def test_every_operation_in_triton_agrees_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PKM_TOPK", 4)
    monkeypatch.setattr(pieces, "PKM_HEADS", 2)
    errors = check_pieces(ON_DEVICE, 0, ("triton",))["triton"]
    assert set(errors) == set(PIECES)
    assert max(errors.values()) < 1e-5
    assert run.backends_on("cpu") == ("torch",)
    assert run.backends_on("cuda:0") == ("torch", "triton")


def test_tokens_whose_best_pairs_tie_read_as_another_that_does_not() -> None:
    """Sub-keys 0 and 1 are one and the same: a token that reads one of them may as well read the other."""
    keys = torch.eye(4).repeat(1, 2, 1, 1)
    keys[0, 0, 1] = keys[0, 0, 0]
    query = torch.full((1, 2, 3, 4), 0.1)
    query[0, 0, 0, 0] = query[0, 0, 1, 2] = query[0, 0, 2, 3] = 1.0
    query[0, 1, :, 2] = 1.0
    found = pieces.without_ties(query, keys, 1, "dot")
    assert torch.equal(found[:, :, 1:], query[:, :, 1:])
    assert torch.equal(found[:, :, 0], query[:, :, 1])
    # Without the tie, and where all pairs are read, all stay as they were.
    assert torch.equal(pieces.without_ties(query[:, :, 1:], keys, 1, "dot"), query[:, :, 1:])
    assert torch.equal(pieces.without_ties(query, keys[:, :, :1], 1, "dot"), query)


def test_no_token_reads_other_slots_in_float32_than_in_float64() -> None:
    """Two sub-keys of each half differ by less than float32 tells apart."""
    inputs = ops.draw(SMALL, 0)
    inputs.keys[:, :, 11] = inputs.keys[:, :, 0] * (1 + 1e-7)
    chunk = pieces._chunk(inputs, SMALL, 0)
    drawn = split_query(inputs.query[:, : SMALL.chunk], SMALL.heads)
    assert 0 < (chunk.query != drawn).any(-1).sum() < drawn.shape[2] * 2
    exact = lookup(chunk.query.double(), chunk.keys.double(), SMALL.topk, "idw").slots.flatten(1)
    assert torch.equal(chunk.reads.slots.sort(-1).values, exact.sort(-1).values)


@pytest.mark.parametrize("name", PIECES)
def test_a_wrong_operation_is_found_out_and_not_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = PIECES[name].arms["torch"]

    def wrong(chunk: pieces.Chunk) -> dict[str, Tensor]:
        found = dict(right(chunk))
        for key, value in found.items():
            found[key] = value + (1 if value.dtype == torch.int64 else 1e-3 * value.abs().max())
        return found

    broken = dataclasses.replace(PIECES[name], arms={**PIECES[name].arms, "torch": wrong})
    monkeypatch.setitem(PIECES, name, broken)
    result = BenchResult(SMALL, Agreement(0, {}, {}))
    run.add_pieces(result, here, {"threads": 1, "repeats": 1}, lambda line: None)
    assert f"{name}/torch" in result.failures
    timed = {piece for piece, _, backend in result.pieces if backend == "torch"}
    assert timed == set(PIECES) - {name}


def test_nothing_missing_and_no_nan_counts_as_agreement() -> None:
    one = {"output": torch.ones(3)}
    assert worst_error(one, one) == 0
    assert worst_error({}, one) == float("inf")
    assert worst_error({"output": torch.full((3,), torch.nan)}, one) == float("inf")
    slots = {"slots": torch.tensor([[1, 2]])}
    assert worst_error({"slots": torch.tensor([[2, 1]])}, slots) == 0
    assert worst_error({"slots": torch.tensor([[2, 3]])}, slots) == float("inf")


def test_bytes_are_those_that_must_move() -> None:
    (chunk,) = chunks_of(SMALL, 0, count=1)
    reads, row = 16 * 2 * 3, 20 * 4
    looked_up = reads * (8 + 4)
    assert 1 < chunk.distinct <= reads
    assert PIECES["read"].bytes_moved(chunk) == chunk.distinct * row + looked_up + 16 * row
    assert PIECES["write"].bytes_moved(chunk) == 2 * chunk.distinct * row + looked_up + 16 * row
    keys, query = 2 * 2 * 12 * 8 * 4, 16 * 2 * 16 * 4
    assert PIECES["lookup"].bytes_moved(chunk) == query + keys + looked_up
    assert PIECES["addressing"].bytes_moved(chunk) == query + 2 * keys + 2 * 2 * 16 * 3 * (8 + 4)


def test_measurements_go_over_all_operations_and_passes() -> None:
    found = measure_pieces(SMALL, 0, "torch", repeats=4, budget=10)
    assert set(found) == {(piece.name, what) for piece in PIECES.values() for what in piece.passes}
    assert all(len(one.seconds) == 4 and one.tokens == 16 for one in found.values())
    assert ("pkm", "forward_backward") in found
    assert measure_bandwidth(repeats=1) > 1e8


def test_rows_of_the_operations() -> None:
    timing = Measurement([1.0] * 3, 1.0, 2**20, 2**19, 1)
    result = BenchResult(SMALL, Agreement(0, {}, {}), {Case(REFERENCE, "forward", "default"): timing})
    result.bandwidth = 1e9
    result.piece_errors = {"torch": {"read": 1e-7}}
    result.pieces = {
        ("read", "forward", "reference"): PieceMeasurement([0.2, 0.2, 0.2], 10**6, 2**20, 16),
        ("read", "forward", "torch"): PieceMeasurement([0.004, 0.005, 0.006], 10**6, 2**19, 16),
    }
    found = {(row.arm, row.metric): row for row in rows.bench_rows(result)}
    assert found["copy/torch", "bytes_per_second"].value == 1e9
    assert found["read/torch", "max_relative_error"].value == 1e-7
    assert found["read/torch", "speedup_forward"].value == pytest.approx(40)
    assert found["read/torch", "share_of_bandwidth_forward"].value == pytest.approx(0.2)
    assert found["read/torch", "forward_seconds"].ci_low == pytest.approx(0.0042)
    assert ("read/reference", "speedup_forward") not in found


def test_a_run_measures_the_operations_after_the_scan() -> None:
    result = run.run_ops(SMALL, repeats=2, runner=here)
    assert result.failures == {}
    assert {backend for _, _, backend in result.pieces} == {"reference", "torch"}
    assert result.bandwidth is not None
    assert Case(IN_PLACE, "forward", "default") in result.measured


def test_work_on_a_numbered_gpu_makes_it_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels called by themselves and events go to the current device."""
    made: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", made.append)
    monkeypatch.setattr(correctness, "check", lambda size: Agreement(0, {}, {}))
    for device in ("cpu", "cuda", "cuda:1"):
        size = dataclasses.asdict(dataclasses.replace(SMALL, device=device))
        worker.do({"what": "check", "size": size, "threads": None})
    assert made == [torch.device("cuda:1")]
