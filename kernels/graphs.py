"""CUDA graphs of what writes a product-key memory in place, for where launching takes longer than the kernels.

    with cuda_graphs():
        fwpkm_scan(..., inplace=True)

A chunk is eight kernels, two sorts and some small operations, each of which the processor has to launch; a sequence is
that for every chunk, one after the other. Recorded once, all of it is one launch. Where no gradient is taken, that is

- `fwpkm_scan` in place, all chunks of the call in one graph, and
- the writes of a stream (`kernels.stream.ProductKeyMemory`); its reads are three launches, as many as a replay needs.

Everything else runs as it does without: calls that take a gradient or copy the memory, PKM, dense memories. A device or
a backend that cannot be recorded is refused. Threads and processes that are started within know nothing of it.

What is static. Query, target and gate are copied into buffers of the graph. Keys and values are written where they
are: they can be hundreds of megabytes, and a stream or a model writes the same ones again and again. So a graph belongs
to one memory. It holds no reference to it, so a memory dies when its owner lets it go, and as the graph is found by the
storages themselves, not by their addresses, another memory at the same address never finds it.

The calls of a memory with the same shapes and settings: the first runs as ever, for what comes once is not worth a
recording. The second runs on the graph's buffers, which is the warm-up that recording needs (kernels are compiled for
these addresses, tables made), and is recorded after that, which runs nothing. From the third on, replays. So each call
writes exactly once, and no copy of the memory is needed for a warm-up. Outputs are copied out of the graph's memory.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.graph_capture import CudaRecorder, Inputs, Outputs, Recorder, Replay, Step

LIMIT = 16
"""Graphs kept at a time: one for each memory of a model and each way it is called."""
_COUNTED = 256
"""Calls that are remembered until they come again."""


@contextmanager
def cuda_graphs(
    *, limit: int = LIMIT, eager_calls: int = 1, recorder: Recorder | None = None
) -> Iterator[MemoryGraphs]:
    """Has in-place scans and stream writes of this thread recorded and replayed; at the end the graphs are gone.

    Args:
        limit: graphs kept at a time; the one that was not replayed for longest goes first.
        eager_calls: how many calls of a kind (memory, shapes, settings) run as ever before one is recorded.
        recorder: what records; None: CUDA.

    Raises:
        UserError: there is no GPU; within: an operation on a device or by a backend that cannot be recorded.
    """
    if limit < 1:
        raise UserError(f"limit is {limit}; it must be at least 1 graph")
    if eager_calls < 0:
        raise UserError(f"eager_calls is {eager_calls}; it must be 0 or more calls")
    graphs = MemoryGraphs(recorder or CudaRecorder(), limit, eager_calls)
    token = _active.set(graphs)
    try:
        yield graphs
    finally:
        _active.reset(token)
        graphs.clear()


def active_graphs() -> MemoryGraphs | None:
    """The graphs of the innermost `cuda_graphs`, None outside of any."""
    return _active.get()


def run_step(what: Hashable, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
    """Runs a step that takes no gradient: from a graph within `cuda_graphs`, as it is elsewhere.

    what: all that tells the step from others, beside the tensors.
    """
    graphs = active_graphs()
    return step(inputs, keys, values) if graphs is None else graphs.run(what, step, inputs, keys, values)


class _Kind(NamedTuple):
    """What a graph is recorded for. Storages are the same only if they are the same objects, and alive.

    A `detach()` or a view is another tensor over the same storage, so the tensors themselves would not do.
    """

    what: Hashable
    queue: Hashable
    inputs: tuple[Hashable, ...]
    memory: tuple[Hashable, ...]
    storages: tuple[weakref.ref[Any], ...]

    @property
    def dead(self) -> bool:
        return any(storage() is None for storage in self.storages)


@dataclass(frozen=True)
class _Graph:
    """inputs: the buffers it reads; outputs: what a replay fills anew."""

    inputs: Inputs
    outputs: Outputs
    replay: Replay


class MemoryGraphs:
    """The graphs of memories, by what they are recorded for. recorded, replayed: how often each was done."""

    def __init__(self, recorder: Recorder, limit: int, eager_calls: int) -> None:
        self._recorder, self._limit, self._eager_calls = recorder, limit, eager_calls
        self._graphs: OrderedDict[_Kind, _Graph] = OrderedDict()
        self._calls: OrderedDict[_Kind, int] = OrderedDict()
        self.recorded = self.replayed = 0

    def __len__(self) -> int:
        """How many graphs there are."""
        return len(self._graphs)

    def clear(self) -> None:
        """Drops every graph."""
        self._graphs.clear()
        self._calls.clear()

    def check(self, backend: str, device: torch.device) -> None:
        """Refuses what cannot be recorded: who asks for graphs is not to get none without a word."""
        trouble = self._recorder.trouble(backend, device)
        if trouble is not None:
            raise UserError(f"cuda_graphs() cannot record here: {trouble}; or run without cuda_graphs()")

    def run(self, what: Hashable, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        """`run_step`, from a graph if there is one by now."""
        queue = self._recorder.queue(values.device)
        if queue is None:  # and no graph may be dropped now, either
            return step(inputs, keys, values)
        self._drop_dead()
        kind = _Kind(
            what,
            queue,  # a graph's buffers are ordered by the stream that they were made on
            tuple(None if x is None else (x.shape, x.dtype, x.device) for x in inputs),
            tuple((x.data_ptr(), x.shape, x.stride(), x.dtype, x.device) for x in (keys, values)),
            tuple(weakref.ref(x.untyped_storage()) for x in (keys, values)),
        )
        graph = self._graphs.get(kind)
        if graph is None and self._count(kind) <= self._eager_calls:
            return step(inputs, keys, values)
        # Buffers made in inference mode could not be written outside of it.
        with torch.inference_mode(False), torch.no_grad():
            if graph is None:
                return self._record(kind, step, inputs, keys, values)
            self._graphs.move_to_end(kind)
            return self._replay(graph, inputs, keys, values)

    def _record(self, kind: _Kind, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        """The call itself, on the buffers of a new graph, and then its recording."""
        del self._calls[kind]
        while len(self._graphs) >= self._limit:
            self._graphs.popitem(last=False)
        buffers = tuple(None if x is None else x.clone(memory_format=torch.contiguous_format) for x in inputs)
        # Copied like a replay's: they may lie in another stream's memory.
        outputs = _copies(self._recorder.run(step, buffers, keys, values))
        replay, filled = self._recorder.record(step, buffers, keys, values)
        self._graphs[kind] = _Graph(buffers, filled, replay)
        self.recorded += 1
        return outputs

    def _replay(self, graph: _Graph, inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        for buffer, given in zip(graph.inputs, inputs, strict=True):
            if buffer is not None and given is not None:
                buffer.copy_(given)
        graph.replay()
        # Autograd does not see what a replay writes: whoever saved these tensors has to be found out.
        torch.autograd.graph.increment_version([x for x in (keys, values) if not x.is_inference()])
        self.replayed += 1
        return _copies(graph.outputs)

    def _count(self, kind: _Kind) -> int:
        """Which call of its kind this is."""
        self._calls[kind] = self._calls.pop(kind, 0) + 1
        while len(self._calls) > _COUNTED:
            self._calls.popitem(last=False)
        return self._calls[kind]

    def _drop_dead(self) -> None:
        for kinds in (self._graphs, self._calls):
            for kind in [kind for kind in kinds if kind.dead]:
                del kinds[kind]


def _copies(tensors: Outputs) -> Outputs:
    return tuple(x.clone() for x in tensors)


_active: ContextVar[MemoryGraphs | None] = ContextVar("cuda_graphs", default=None)
