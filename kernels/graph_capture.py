"""Recording what is launched on a GPU, to launch all of it again at once: what `kernels.graphs` needs of CUDA.

After PyTorch's notes on CUDA graphs (docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs): a recorded step reads
and writes the addresses that it was recorded with, whatever it makes itself lies in a pool of the graph's own, and
recording launches nothing. Nothing in it may wait for the device.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError

Inputs = tuple[Tensor | None, ...]
Outputs = tuple[Tensor, ...]
Step = Callable[[Inputs, Tensor, Tensor], Outputs]
"""(inputs, keys, values) → outputs, new tensors; writes keys and values in place. It must not hold either of them."""
Replay = Callable[[], None]


class Recorder(Protocol):
    """Runs steps and records them."""

    def trouble(self, backend: str, device: torch.device) -> str | None:
        """Why what a backend launches on a device cannot be recorded, or None."""
        ...

    def queue(self, device: torch.device) -> Hashable | None:
        """Where launches on a device go now; None: into a recording that somebody else is making."""
        ...

    def run(self, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        """Runs a step that is to be recorded next, as it will be recorded."""
        ...

    def record(self, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> tuple[Replay, Outputs]:
        """Records a step without running it: how to replay it, and the tensors that each replay fills anew."""
        ...


class CudaRecorder:
    """Records into CUDA graphs."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise UserError("CUDA graphs need a GPU that torch can use, and there is none; run without cuda_graphs()")
        self._cuda: Any = torch.cuda
        self._streams: dict[torch.device, Any] = {}

    def trouble(self, backend: str, device: torch.device) -> str | None:
        if device.type != "cuda":
            return f"they are for tensors on CUDA, and these are on {device.type}"
        if backend != "triton":
            return f"backend {backend!r} waits for the device; use 'triton' or 'auto'"
        from fwpkm_eval.kernels.triton_launch import interpreted

        return "with TRITON_INTERPRET=1 kernels run in Python" if interpreted() else None

    def queue(self, device: torch.device) -> Hashable | None:
        with self._cuda.device(device):
            return None if self._cuda.is_current_stream_capturing() else self._cuda.current_stream().cuda_stream

    def run(self, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        # On the stream of the recording: what libraries make once for each stream is there by then.
        side, current = self._side(values.device), self._cuda.current_stream(values.device)
        side.wait_stream(current)
        with self._cuda.stream(side):
            outputs = step(inputs, keys, values)
        current.wait_stream(side)
        return outputs

    def record(self, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> tuple[Replay, Outputs]:
        graph = self._cuda.CUDAGraph()
        # Another thread that allocates meanwhile is no error.
        with (
            self._cuda.device(values.device),
            _no_collection(),
            self._cuda.graph(graph, stream=self._side(values.device), capture_error_mode="thread_local"),
        ):
            outputs = step(inputs, keys, values)
        return graph.replay, outputs

    def _side(self, device: torch.device) -> Any:
        if device not in self._streams:
            self._streams[device] = self._cuda.Stream(device)
        return self._streams[device]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python from collecting: a graph or compiled kernel that is freed during a recording spoils it."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
