"""CUDA graphs of in-place scans and stream writes: bit for bit what runs without, and no write where none belongs.

Where there is no GPU a stand-in records (see `graph_stand_in`); where there is one, CUDA does, for backend triton.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from graph_cases import (
    BACKEND,
    CUDA,
    DEVICE,
    SMALL,
    assert_same,
    calls_of,
    memory_of,
    results,
    scan_on,
    without_graphs,
)
from graph_stand_in import StandIn
from model_cases import fast_weights, small_model, tokens
from scan_cases import Case
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.graph_capture import CudaRecorder, Recorder
from fwpkm_eval.kernels.graphs import active_graphs, cuda_graphs
from fwpkm_eval.kernels.observe import Write
from fwpkm_eval.kernels.stream import ProductKeyMemory, WriteQueue, flush, read_and_queue

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


CASES = {
    "ragged": SMALL,
    "whole chunks": replace(SMALL, tokens=8, lookahead=0),
    "shorter than a chunk": replace(SMALL, chunk=512, gated=False),
    "dot": replace(SMALL, score="dot", lookahead=2),
    "no entropy": replace(SMALL, addressing="none"),
    "dot, no entropy, no gate": replace(SMALL, score="dot", addressing="none", gated=False),
    "last chunk without a target": replace(SMALL, tokens=9, chunk=8),
    "rates": replace(SMALL, batch=1, heads=1, learning_rate=0.3, addressing_weight=2.5),
}


def recorder() -> Recorder:
    return CudaRecorder() if CUDA else StandIn()


def check_repeated(case: Case, backend: str, calls: int = 4) -> None:
    """Several calls on one memory; all results are compared after the last."""
    eager_memory, memory = memory_of(case), memory_of(case)
    eager, ours, after, eager_after = [], [], [], []
    for given in calls_of(case, calls):
        eager.append(scan_on(case, eager_memory, given, backend))
        eager_after.append([x.clone() for x in eager_memory.values()])
    with cuda_graphs(recorder=recorder()) as graphs:
        for given in calls_of(case, calls):
            ours.append(scan_on(case, memory, given, backend))
            after.append([x.clone() for x in memory.values()])
        assert (graphs.recorded, graphs.replayed, len(graphs)) == (1, calls - 2, 1)
    for found, expected in zip(ours, eager, strict=True):
        assert_same(results(found), results(expected))
        assert (found.addressing_loss is None) == (expected.addressing_loss is None)
    for states in zip(after, eager_after, strict=True):
        assert_same(*states)
    assert ours[-1].keys.data_ptr() == memory["keys"].data_ptr()
    assert not torch.equal(after[1][1], after[2][1]), "the calls write something"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_graph_gives_what_runs_without(case: Case) -> None:
    """The first call runs as ever, the second is recorded, the others replay; each writes once."""
    check_repeated(case, BACKEND)


@pytest.mark.skipif(CUDA, reason="on a GPU the test above is of Triton")
@pytest.mark.parametrize("name", ["ragged", "dot", "no entropy", "shorter than a chunk"])
def test_a_graph_gives_what_runs_without_in_the_interpreter(name: str) -> None:
    check_repeated(CASES[name], "triton", calls=3)


def test_each_shape_and_setting_is_a_graph_of_its_own() -> None:
    cases = [SMALL, replace(SMALL, tokens=5), replace(SMALL, gated=False), replace(SMALL, learning_rate=0.5)]
    cases += [replace(SMALL, chunk=3), replace(SMALL, batch=1)]
    eager_memory, memory = memory_of(SMALL), memory_of(SMALL)
    with cuda_graphs(recorder=recorder()) as graphs:
        for seed in range(4):
            for each in cases:
                given = next(calls_of(replace(each, seed=seed), 1))
                ours = scan_on(each, memory, given)
                assert_same(results(ours), results(without_graphs(scan_on, each, eager_memory, given)))
                assert_same(list(memory.values()), list(eager_memory.values()))
        assert len(graphs) == graphs.recorded == len(cases)
        assert graphs.replayed == 2 * len(cases)


def test_two_memories_are_not_taken_for_one_another() -> None:
    eager, ours = ([memory_of(SMALL, seed) for seed in (1, 2)] for _ in range(2))
    with cuda_graphs(recorder=recorder()) as graphs:
        for given in calls_of(SMALL, 4):
            for mine, theirs in zip(ours, eager, strict=True):
                found = scan_on(SMALL, mine, given)
                assert_same(results(found), results(without_graphs(scan_on, SMALL, theirs, given)))
        assert len(graphs) == 2
    for mine, theirs in zip(ours, eager, strict=True):
        assert_same(list(mine.values()), list(theirs.values()))
    assert not torch.equal(ours[0]["values"], ours[1]["values"])


def test_a_graph_does_not_keep_its_memory_alive_and_goes_with_it() -> None:
    memory, other = memory_of(SMALL), memory_of(SMALL)
    with cuda_graphs(recorder=recorder()) as graphs:
        for given in calls_of(SMALL, 3):
            result = scan_on(SMALL, memory, given)
        assert len(graphs) == 1
        gone: Any = weakref.ref(memory["values"].untyped_storage())
        del memory, result
        assert gone() is None
        scan_on(SMALL, other, given)
        assert len(graphs) == 0


@pytest.mark.skipif(CUDA, reason="addresses are chosen on a CPU only")
def test_another_memory_at_the_same_address_does_not_find_the_graph() -> None:
    """Storages that come and go at one address: the graph of the first must not serve the second."""
    first = memory_of(SMALL)
    buffers = {name: np.empty(x.shape, np.float32) for name, x in first.items()}

    def placed() -> dict[str, Tensor]:
        found = {name: torch.from_numpy(buffer) for name, buffer in buffers.items()}
        for name, x in found.items():
            x.copy_(first[name])
        return found

    with cuda_graphs(recorder=StandIn()) as graphs:
        for round_ in range(2):
            memory, expected = placed(), memory_of(SMALL)
            address = memory["values"].data_ptr()
            assert address == buffers["values"].ctypes.data
            for given in calls_of(SMALL, 3):
                scan_on(SMALL, memory, given)
                without_graphs(scan_on, SMALL, expected, given)
            assert_same(list(memory.values()), list(expected.values()))
            assert (graphs.recorded, graphs.replayed, len(graphs)) == (round_ + 1, round_ + 1, 1)
            del memory


def test_autograd_finds_out_whoever_saved_what_a_replay_wrote() -> None:
    memory = memory_of(SMALL)
    weight = torch.ones((), device=DEVICE, requires_grad=True)
    with cuda_graphs(recorder=recorder(), eager_calls=0) as graphs:
        first, second = calls_of(SMALL, 2)
        scan_on(SMALL, memory, first)
        for name in ("keys", "values"):
            saved = (weight * memory[name]).sum()
            scan_on(SMALL, memory, second)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                saved.backward()
        assert graphs.replayed == 2


def test_calls_with_gradients_or_a_copied_memory_run_as_ever() -> None:
    case = replace(SMALL, tokens=8)
    given = next(calls_of(case, 1))
    expected = case.scan({**given, **memory_of(case)}, backend=BACKEND)
    with cuda_graphs(recorder=recorder()) as graphs:
        for _ in range(3):
            copied = case.scan({**given, **memory_of(case)}, backend=BACKEND)
            assert_same(results(copied), results(expected))
            asking = {**given, "query": given["query"].clone().requires_grad_()}
            scan_on(case, memory_of(case), asking).output.sum().backward()
            assert asking["query"].grad.abs().sum() > 0
        assert (graphs.recorded, graphs.replayed) == (0, 0)
        memory = memory_of(case)
        with torch.no_grad():
            for _ in range(3):
                assert not scan_on(case, memory, asking).output.requires_grad
        assert (graphs.recorded, graphs.replayed) == (1, 1)


def test_a_call_in_inference_mode_and_one_outside() -> None:
    memory, expected = memory_of(SMALL), memory_of(SMALL)
    with cuda_graphs(recorder=recorder(), eager_calls=0) as graphs:
        for number, given in enumerate(calls_of(SMALL, 4)):
            with torch.inference_mode(number % 2 == 0):
                ours = scan_on(SMALL, memory, given)
            assert_same(results(ours), results(without_graphs(scan_on, SMALL, expected, given)))
        assert (graphs.recorded, graphs.replayed) == (1, 3)


def test_the_graph_that_was_not_used_for_longest_goes_first() -> None:
    memories = [memory_of(SMALL, seed) for seed in range(3)]
    with cuda_graphs(recorder=recorder(), limit=2, eager_calls=0) as graphs:
        for index, recorded in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
            scan_on(SMALL, memories[index], next(calls_of(SMALL, 1)))
            assert graphs.recorded == recorded
            assert len(graphs) <= 2


@pytest.mark.parametrize("eager", [0, 1, 3])
def test_a_graph_is_recorded_after_as_many_calls_as_asked(eager: int) -> None:
    memory = memory_of(SMALL)
    with cuda_graphs(recorder=recorder(), eager_calls=eager) as graphs:
        for number, given in enumerate(calls_of(SMALL, 6), start=1):
            scan_on(SMALL, memory, given)
            assert graphs.recorded == (number > eager)
            assert graphs.replayed == max(0, number - eager - 1)


@pytest.mark.skipif(CUDA, reason="streams are made up")
def test_a_graph_belongs_to_its_stream_and_is_left_out_of_the_recordings_of_others() -> None:
    memory, stand_in = memory_of(SMALL), StandIn(stream=1)
    with cuda_graphs(recorder=stand_in, eager_calls=0) as graphs:
        for stream, found in ((1, (1, 0)), (2, (2, 0)), (1, (2, 1)), (None, (2, 1)), (2, (2, 2))):
            stand_in.stream = stream
            scan_on(SMALL, memory, next(calls_of(SMALL, 1)))
            assert (graphs.recorded, graphs.replayed) == found


def test_tables_that_graphs_read_stay_where_they_are() -> None:
    """A graph holds the address of what kernels make once and keep; another thousand sizes must not push it out."""
    from fwpkm_eval.kernels import triton_segments, triton_topk

    device = torch.device(DEVICE)
    tables = triton_segments._count_to(3, device), triton_topk._candidates(2, device)
    for size in range(4, 1000):
        triton_segments._count_to(size, device)
    for topk in range(3, 80):
        triton_topk._candidates(topk, device)
    assert triton_segments._count_to(3, device) is tables[0]
    assert triton_topk._candidates(2, device) is tables[1]


# --- streams


class Listener:
    def __init__(self) -> None:
        self.writes: list[Write] = []

    def read(self, slots: Tensor, weights: Tensor) -> None: ...

    def gated(self, gate: Tensor, place: int) -> None: ...

    def wrote(self, write: Write) -> None:
        self.writes.append(write)

    def copy(self) -> Listener:
        return Listener()


@pytest.mark.parametrize("count", ["written", "read"])
def test_a_stream_reads_and_writes_the_same(count: Any) -> None:
    case = replace(SMALL, tokens=30, chunk=4)
    given = next(calls_of(case, 1))

    def stream() -> tuple[Tensor, dict[str, Tensor], Listener, int]:
        listener, queue = Listener(), WriteQueue()
        memory = ProductKeyMemory(**memory_of(case), rule=case.rule, count=count, observer=listener, backend=BACKEND)
        with torch.no_grad():
            read = [
                read_and_queue(
                    memory, queue, **{name: x[:, start : start + 6] for name, x in given.items()}, chunk_size=case.chunk
                )
                for start in range(0, 30, 6)
            ]
        flush(memory, queue)
        return torch.cat(read, 1), memory.fast_weights, listener, memory.writes

    expected = stream()
    with cuda_graphs(recorder=recorder()) as graphs:
        ours = stream()
        assert graphs.replayed >= (5 if count == "written" else 1)
    assert_same([ours[0], *ours[1].values()], [expected[0], *expected[1].values()])
    assert ours[3] == expected[3] == len(ours[2].writes)
    for mine, theirs in zip(ours[2].writes, expected[2].writes, strict=True):
        assert_same([mine.slots, mine.weights, mine.query], [theirs.slots, theirs.weights, theirs.query])
        assert mine.query_places == theirs.query_places


@pytest.fixture
def products_of_libraries() -> Iterator[None]:
    """Lets cuBLAS multiply, which torch refuses in its deterministic mode."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True)


@pytest.mark.usefixtures("products_of_libraries")
@pytest.mark.parametrize("updates", ["scan", "stream"])
def test_a_model_reads_the_same(updates: Any) -> None:
    """Two memory layers, several pieces; a scan hands its memory on as other tensors over the same storages."""
    model = small_model("gdn:fwpkm@0,1").to(DEVICE)
    model.use_backend(BACKEND)
    pieces = tokens(length=48).to(DEVICE).split(12, 1)

    def read() -> list[Tensor]:
        state, found = model.initial_state(), []
        with torch.no_grad():
            for piece in pieces:
                logits, state = model(piece, state, updates=updates, write_chunk=5, inplace=True)
                found.append(logits)
        return [*found, *fast_weights(state).values()]

    expected = read()
    with cuda_graphs(recorder=recorder()) as graphs:
        assert_same(read(), expected)
        assert graphs.recorded == 2
        assert graphs.replayed >= 4
        read()
        assert graphs.recorded == 4, "a second state has memories of its own"


# --- what is refused, and the context


def test_what_cannot_be_recorded_is_refused_in_one_line() -> None:
    given, memory = next(calls_of(SMALL, 1)), memory_of(SMALL)
    before = memory["values"].clone()
    stream = ProductKeyMemory(**memory, rule=SMALL.rule)
    with cuda_graphs(recorder=StandIn(refusal="it is Tuesday")):
        for backend in ("torch", "reference", "auto"):
            with pytest.raises(UserError, match=r"^cuda_graphs\(\) cannot record here: it is Tuesday; or run without"):
                SMALL.scan({**given, **memory}, backend=backend)
        with pytest.raises(UserError, match="it is Tuesday"):
            stream.write(given["query"], given["target"], given["gate"])
    assert torch.equal(memory["values"], before)


@pytest.mark.parametrize(("setting", "told"), [({"limit": 0}, "limit is 0"), ({"eager_calls": -1}, "eager_calls is")])
def test_settings_that_make_no_sense(setting: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told), cuda_graphs(**setting, recorder=StandIn()):
        raise AssertionError("nothing runs")


def test_graphs_end_with_their_context_also_after_an_error() -> None:
    memory = memory_of(SMALL)
    with cuda_graphs(recorder=recorder(), eager_calls=0) as outer:
        scan_on(SMALL, memory, next(calls_of(SMALL, 1)))
        with suppress(ZeroDivisionError), cuda_graphs(recorder=recorder(), eager_calls=0) as inner:
            scan_on(SMALL, memory, next(calls_of(SMALL, 1)))
            assert (len(inner), active_graphs()) == (1, inner)
            raise ZeroDivisionError
        assert len(inner) == 0
        assert (len(outer), active_graphs()) == (1, outer)
    assert len(outer) == 0
    assert active_graphs() is None
