"""A recorder for machines without a GPU that does to memory what a CUDA graph does.

A replay runs the step again, on the same buffers and at the same addresses, and fills the tensors that the recording
made. It holds no memory, and autograd's version counters do not see what it writes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.kernels.graph_capture import Inputs, Outputs, Replay, Step


class StandIn:
    """Records anything anywhere. stream: what `queue` says; refusal: what `trouble` says."""

    def __init__(self, stream: Hashable | None = 0, refusal: str | None = None) -> None:
        self.stream, self.refusal = stream, refusal

    def trouble(self, backend: str, device: torch.device) -> str | None:
        return self.refusal

    def queue(self, device: torch.device) -> Hashable | None:
        return self.stream

    def run(self, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        return step(inputs, keys, values)

    def record(self, step: Step, inputs: Inputs, keys: Tensor, values: Tensor) -> tuple[Replay, Outputs]:
        # What is recorded does not run: the memory stays as it is, and the outputs hold nothing yet.
        outputs = step(inputs, keys.clone(), values.clone())
        memory = [address_of(x) for x in (keys, values)]

        def replay() -> None:
            spoil(outputs)
            for kept, found in zip(outputs, step(inputs, *(at() for at in memory)), strict=True):
                kept.copy_(found)

        spoil(outputs)
        return replay, outputs


def address_of(x: Tensor) -> Callable[[], Tensor]:
    """x again from its place in memory, as a kernel finds it, while somebody else holds that memory."""
    storage: Any = weakref.ref(x.untyped_storage())
    place, dtype, device = (x.storage_offset(), x.shape, x.stride()), x.dtype, x.device

    def found() -> Tensor:
        assert storage() is not None, "a graph was replayed whose memory is gone"
        return torch.empty(0, dtype=dtype, device=device).set_(storage(), *place)

    return found


def spoil(tensors: Outputs) -> None:
    """Fills what nobody may rely on: the next replay may overwrite it at any time."""
    for x in tensors:
        x.fill_(float("nan") if x.is_floating_point() else -1)
