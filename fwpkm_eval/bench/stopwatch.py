"""Time and memory of a call on a device; what differs between processors and GPUs is here and nowhere else."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, Protocol, cast

from fwpkm_eval.bench import memory
from fwpkm_eval.malloc import release_freed_memory


class Stopwatch(Protocol):
    """Times calls one by one and watches the memory."""

    device_name: str

    def seconds(self, call: Callable[[], Any]) -> float:
        """How long a call takes, to the end of all it started."""
        ...

    def held_bytes(self) -> int:
        """The memory held now."""
        ...

    def reset_peak(self) -> None:
        """Starts the count of `peak_bytes` anew."""
        ...

    def peak_bytes(self) -> int:
        """The most memory held since `reset_peak`."""
        ...


class ProcessorWatch:
    """The clock of the system, and the memory of this process."""

    def __init__(self) -> None:
        self.device_name = "cpu"

    def seconds(self, call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        returned = call()
        seconds = time.perf_counter() - started
        del returned  # freed once the clock was read
        return seconds

    def held_bytes(self) -> int:
        # Or what an earlier call needed counts as held, and what the next one needs does not show.
        release_freed_memory()
        return memory.resident_bytes()

    def reset_peak(self) -> None:
        memory.reset_peak()

    def peak_bytes(self) -> int:
        return memory.peak_bytes()


FLUSH_BYTES = 2**28
"""What is read to empty a GPU's second-level cache, at least: several times what the largest holds."""
HEAD_START = 32
"""How often it is read before a call that is to wait in the queue: some 3 ms of an H100's time, 0.3 ms of Python's."""


class CudaWatch:
    """Events on the GPU's stream; before each call its second-level cache is emptied, outside of the time.

    By reading, not writing: what was written would go to memory during the call. With ``queued``, calls wait in the
    GPU's queue until Python has launched all of their kernels, and the time is the GPU's alone; else they start on an
    idle GPU, and what Python takes to launch them counts, as it does for whoever waits for the result.
    """

    def __init__(self, device: str, queued: bool = False) -> None:
        import torch

        self._torch, self._cuda = torch, cast(Any, torch.cuda)
        self._device = torch.device(device)
        self._queued = queued
        self.device_name = torch.cuda.get_device_name(self._device)
        size = max(4 * torch.cuda.get_device_properties(self._device).L2_cache_size, FLUSH_BYTES)
        self._flush = torch.zeros(size // 4, dtype=torch.float32, device=self._device)
        self._sum = torch.zeros((), dtype=torch.float32, device=self._device)

    def seconds(self, call: Callable[[], Any]) -> float:
        start, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        for _ in range(HEAD_START if self._queued else 1):
            self._torch.sum(self._flush, dim=0, out=self._sum)
        if not self._queued:
            self._cuda.synchronize(self._device)
        start.record()
        returned = call()
        end.record()
        self._cuda.synchronize(self._device)
        del returned
        return float(start.elapsed_time(end)) / 1000

    def held_bytes(self) -> int:
        return int(self._cuda.memory_allocated(self._device))

    def reset_peak(self) -> None:
        self._cuda.synchronize(self._device)
        self._cuda.reset_peak_memory_stats(self._device)

    def peak_bytes(self) -> int:
        return int(self._cuda.max_memory_allocated(self._device))


def stopwatch(device: str, queued: bool = False) -> Stopwatch:
    """The stopwatch of a device; ``queued``: a GPU's own time alone (see `CudaWatch`)."""
    return ProcessorWatch() if device == "cpu" else CudaWatch(device, queued)


def time_calls(watch: Stopwatch, calls: Iterable[Callable[[], Any]], repeats: int, budget: float) -> list[float]:
    """Seconds of up to `repeats` of the calls, within about `budget` seconds, 3 at least; no garbage is collected."""
    seconds: list[float] = []
    gc.disable()
    try:
        for call in islice(calls, repeats):
            seconds.append(watch.seconds(call))
            if len(seconds) >= 3 and sum(seconds) >= budget:
                break
    finally:
        gc.enable()
    return seconds
