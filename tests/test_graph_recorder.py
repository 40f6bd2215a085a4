"""CUDA graphs on CUDA: what is asked of torch.cuda, shown by a stand-in, and long scans where there is a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from graph_cases import (
    CUDA,
    DEVICE,
    SMALL,
    assert_same,
    calls_of,
    memory_of,
    needs_gpu,
    results,
    scan_on,
    without_graphs,
)
from scan_cases import Case
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.graph_capture import CudaRecorder
from fwpkm_eval.kernels.graphs import active_graphs, cuda_graphs

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


@pytest.mark.parametrize(
    ("backend", "device", "told"),
    [
        ("torch", "cuda", "backend 'torch' waits for the device; use 'triton' or 'auto'"),
        ("reference", "cuda", "backend 'reference' waits"),
        ("triton", "cpu", "for tensors on CUDA, and these are on cpu"),
    ],
)
def test_cuda_records_triton_on_cuda_alone(backend: str, device: str, told: str) -> None:
    trouble = made_up(SimpleNamespace()).trouble(backend, torch.device(device))
    assert trouble is not None
    assert told in trouble


@pytest.mark.skipif(CUDA, reason="there is a GPU")
def test_without_a_gpu_graphs_are_refused_at_once() -> None:
    with pytest.raises(UserError, match="CUDA graphs need a GPU"), cuda_graphs():
        raise AssertionError("nothing runs")
    assert active_graphs() is None
    assert made_up(SimpleNamespace()).trouble("triton", torch.device("cuda")) is not None, "the interpreter"


def made_up(cuda: Any) -> CudaRecorder:
    """A recorder over a made-up `torch.cuda`."""
    found = CudaRecorder.__new__(CudaRecorder)
    found._cuda, found._streams = cuda, {}
    return found


class MadeUpCuda:
    """Writes down what is asked of it, in order."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def current_stream(self, device: torch.device) -> Any:
        return self._stream("current")

    def Stream(self, device: torch.device) -> Any:
        self.log.append("new stream")
        return self._stream("side")

    def CUDAGraph(self) -> Any:
        return SimpleNamespace(replay=lambda: self.log.append("replay"))

    def device(self, device: torch.device) -> Any:
        return self._within(f"device {device}")

    def stream(self, stream: Any) -> Any:
        return self._within(f"stream {stream.name}")

    def graph(self, graph: Any, stream: Any, capture_error_mode: str) -> Any:
        return self._within(f"graph on {stream.name}, {capture_error_mode}")

    def _stream(self, name: str) -> Any:
        return SimpleNamespace(name=name, wait_stream=lambda other: self.log.append(f"{name} waits for {other.name}"))

    @contextmanager
    def _within(self, what: str) -> Iterator[None]:
        self.log.append(what)
        try:
            yield
        finally:
            self.log.append(f"end of {what}")


def logging_step(log: list[str], fail: bool = False) -> Callable[..., tuple[Tensor, ...]]:
    def step(inputs: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        log.append(f"step, collecting {gc.isenabled()}")
        if fail:
            raise ZeroDivisionError
        return (values,)

    return step


def test_the_warm_up_and_the_recording_are_on_one_side_stream_ordered_with_the_callers() -> None:
    cuda = MadeUpCuda()
    found, x = made_up(cuda), torch.zeros(1)
    found.run(logging_step(cuda.log), (x,), x, x)
    assert cuda.log == [
        "new stream",
        "side waits for current",
        "stream side",
        "step, collecting True",
        "end of stream side",
        "current waits for side",
    ]
    cuda.log.clear()
    replay, outputs = found.record(logging_step(cuda.log), (x,), x, x)
    replay()
    assert outputs == (x,)
    assert cuda.log == [
        "device cpu",
        "graph on side, thread_local",
        "step, collecting False",
        "end of graph on side, thread_local",
        "end of device cpu",
        "replay",
    ]
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_recording_that_failed_and_not_where_it_was_off() -> None:
    cuda, x = MadeUpCuda(), torch.zeros(1)
    with pytest.raises(ZeroDivisionError):
        made_up(cuda).record(logging_step(cuda.log, fail=True), (x,), x, x)
    assert gc.isenabled()
    gc.disable()
    try:
        made_up(cuda).record(logging_step(cuda.log), (x,), x, x)
        assert not gc.isenabled()
    finally:
        gc.enable()


@needs_gpu
def test_a_long_scan_on_cuda_at_the_papers_widths() -> None:
    """Eight dependent chunks, several calls, other work and an emptied cache in between."""
    case = Case(tokens=4096, subkeys=128, half=256, width=512, topk=8, chunk=512)
    memory, expected = memory_of(case), memory_of(case)
    with cuda_graphs() as graphs:
        for number, given in enumerate(calls_of(case, 5)):
            theirs = without_graphs(scan_on, case, expected, given, "triton")
            ours = scan_on(case, memory, given, "auto")
            assert_same(results(ours), results(theirs))
            assert_same(list(memory.values()), list(expected.values()))
            torch.empty(2**28, device=DEVICE).normal_()
            torch.cuda.empty_cache()
            assert graphs.replayed == max(0, number - 1)


@needs_gpu
def test_a_replay_launches_no_operation_of_a_chunk_on_cuda() -> None:
    memory = memory_of(SMALL)
    with cuda_graphs(eager_calls=0):
        given = next(calls_of(SMALL, 1))
        scan_on(SMALL, memory, given)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            scan_on(SMALL, memory, given)
    assert [event for event in profile.events() if event.name == "aten::sort"] == []


@needs_gpu
def test_graphs_give_their_memory_back_on_cuda() -> None:
    memory, given = memory_of(SMALL), next(calls_of(SMALL, 1))
    scan_on(SMALL, memory, given)
    gc.collect()  # or what earlier tests left is freed in between
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with cuda_graphs(eager_calls=0):
        for _ in range(3):
            scan_on(SMALL, memory, given)
        assert torch.cuda.memory_allocated() > before
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before


@needs_gpu
def test_a_graph_is_not_recorded_into_that_of_its_caller_on_cuda() -> None:
    memory, expected, given = memory_of(SMALL), memory_of(SMALL), next(calls_of(SMALL, 1))
    for each in (memory, expected):
        scan_on(SMALL, each, given)
    graph = torch.cuda.CUDAGraph()
    with cuda_graphs(eager_calls=0) as graphs:
        with torch.cuda.graph(graph):
            scan_on(SMALL, memory, given)
        assert graphs.recorded == 0
    graph.replay()
    scan_on(SMALL, expected, given)
    assert_same(list(memory.values()), list(expected.values()))
