"""What is measured: the scan at a size, by each implementation, forward and with gradients.

S sub-keys per half (S² slots), dk and dv widths of keys and values, H heads, k slots read per head, C chunk, T tokens,
B batch.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.bench.stopwatch import Stopwatch, stopwatch, time_calls
from fwpkm_eval.errors import unknown
from fwpkm_eval.kernels import fwpkm_scan
from fwpkm_eval.kernels.graphs import MemoryGraphs, cuda_graphs
from fwpkm_eval.kernels.huge_pages import empty_large
from fwpkm_eval.kernels.types import ScanResult
from fwpkm_eval.reference_models.config import SCALES, model_config

TOKENS = {"micro": 1024, "small": 4096, "paper": 2048}
"""T at each scale; all other sizes are those of the scale's FwPKM."""


@dataclass(frozen=True)
class OpSize:
    """A scan's sizes (see the top of this file); IDW scores, entropy addressing, lookahead 1, float32.

    words: how many tokens there are to choose from, the r-th in rank 1/r as often as the first (Zipf's law), and those
    that are the same look near the same slot, as in text; 0: slots are drawn evenly.
    """

    name: str
    subkeys: int
    key_dim: int
    value_dim: int
    heads: int
    topk: int
    chunk: int
    tokens: int
    batch: int = 1
    device: str = "cpu"
    words: int = 0

    def __str__(self) -> str:
        words = f"W {self.words}, " if self.words else ""
        return (
            f"S {self.subkeys}, dk {self.key_dim}, dv {self.value_dim}, H {self.heads}, k {self.topk}, "
            f"C {self.chunk}, T {self.tokens}, {words}B {self.batch}"
        )


@dataclass(frozen=True)
class Arm:
    """An implementation: a backend, and whether it may write into the memory it is given or has to copy it.

    graphs: from a CUDA graph (in place only), which its first call records.
    """

    name: str
    backend: str
    inplace: bool = False
    graphs: bool = False

    @property
    def passes(self) -> tuple[str, ...]:
        """What it can be asked for: a memory that is overwritten takes no gradient, and a graph holds none."""
        if self.graphs:
            return tuple(name for name, gradients in PASSES.items() if not gradients)
        return tuple(name for name, gradients in PASSES.items() if not (self.inplace and "values" in gradients))

    def running(self) -> AbstractContextManager[MemoryGraphs | None]:
        """Within which its calls are made."""
        return cuda_graphs(eager_calls=0) if self.graphs else nullcontext()


REFERENCE = Arm("scan/reference", "reference")
COPYING = Arm("scan/torch", "torch")
IN_PLACE = Arm("scan/torch in place", "torch", inplace=True)
"""How models run it, in training and in evaluation: the memory is theirs to overwrite."""
TRITON = Arm("scan/triton", "triton")
TRITON_IN_PLACE = Arm("scan/triton in place", "triton", inplace=True)
TRITON_GRAPH = Arm("scan/triton in place as a CUDA graph", "triton", inplace=True, graphs=True)
ARMS = {arm.name: arm for arm in (REFERENCE, COPYING, IN_PLACE, TRITON, TRITON_IN_PLACE, TRITON_GRAPH)}


def arms_on(device: str) -> dict[str, Arm]:
    """The arms that can be timed on a device: Triton's kernels run on a GPU (its interpreter is for tests)."""
    return {name: arm for name, arm in ARMS.items() if device != "cpu" or arm.backend != "triton"}


PASSES = {
    "forward": (),
    "forward_backward": ("query", "target", "gate", "keys", "values"),
    "training": ("query", "target", "gate"),
}
"""What is timed, and the gradients that it takes. Training needs none of the memory's first keys and values."""


@dataclass
class Inputs:
    """A scan's inputs (shapes as `fwpkm_scan` has them) and the cotangent of its output [B,T,dv]."""

    query: Tensor
    target: Tensor
    gate: Tensor
    keys: Tensor
    values: Tensor
    cotangent: Tensor


@dataclass(frozen=True)
class Measurement:
    """One arm, one pass, in one process: seconds of each call, and the most memory held, with and above the inputs.

    cpu_share: processor time over the time of the calls; well below 1, other programs held the processor.
    """

    seconds: list[float]
    cpu_share: float
    peak_bytes: int
    above_inputs_bytes: int
    threads: int
    device_name: str = "cpu"


def op_size(scale: str, batch: int = 1, device: str = "cpu") -> OpSize:
    """The size of a scale's FwPKM layer."""
    sizes = [name for name in TOKENS if name in SCALES]
    if scale not in sizes:
        raise unknown("size", scale, sizes)
    config = model_config("gdn:fwpkm", scale)
    fwpkm = config.fwpkm
    return OpSize(
        name=scale,
        subkeys=fwpkm.subkeys,
        key_dim=fwpkm.key_dim,
        value_dim=fwpkm.value_dim,
        heads=fwpkm.heads,
        topk=fwpkm.topk,
        chunk=config.chunk_size,
        tokens=TOKENS[scale],
        batch=batch,
        device=device,
    )


def draw(size: OpSize, seed: int) -> Inputs:
    """Keys and values as a new layer has them; each query near a product key: reads spread over all slots, or over
    those of the size's words."""
    random = torch.Generator().manual_seed(seed)
    heads, half, tokens = size.heads, size.key_dim // 2, size.batch * size.tokens
    spread = size.key_dim**-0.5
    keys = torch.empty(heads, 2, size.subkeys, half).uniform_(-spread, spread, generator=random)
    # Where a model's lie. Filled in place: a temporary of their size would stay in the peak where it cannot be reset.
    values = empty_large(size.subkeys**2, size.value_dim).normal_(0, size.value_dim**-0.5, generator=random)
    nearest = torch.randint(size.subkeys, (heads, 2, size.words or tokens, 1), generator=random)
    if size.words:
        frequency = 1 / torch.arange(1, size.words + 1)
        nearest = nearest[:, :, torch.multinomial(frequency, tokens, replacement=True, generator=random)]
    query = keys.gather(2, nearest.expand(-1, -1, -1, half))
    query += torch.randn(query.shape, generator=random) * spread / 2
    shape = (size.batch, size.tokens)
    inputs = Inputs(
        query=query.permute(2, 0, 1, 3).reshape(*shape, heads * size.key_dim),
        target=torch.randn(*shape, size.value_dim, generator=random),
        gate=torch.rand(*shape, generator=random),
        keys=keys,
        values=values,
        cotangent=torch.randn(*shape, size.value_dim, generator=random),
    )
    if size.device == "cpu":
        return inputs
    return Inputs(**{name: tensor.to(size.device) for name, tensor in vars(inputs).items()})


def scan(inputs: Inputs, arm: Arm, size: OpSize) -> ScanResult:
    """The scan itself, with the settings that are measured."""
    # A memory that was written in place belongs to the graph of the call that wrote it.
    held = (inputs.keys.detach(), inputs.values.detach()) if arm.inplace else (inputs.keys, inputs.values)
    return fwpkm_scan(
        inputs.query,
        inputs.target,
        inputs.gate,
        *held,
        topk=size.topk,
        chunk_size=size.chunk,
        backend=arm.backend,
        inplace=arm.inplace,
    )


def measure(size: OpSize, arm: Arm, what: str, *, seed: int, repeats: int, budget: float) -> Measurement:
    """Time and memory of one pass: a call to warm up, then up to `repeats` within about `budget` seconds, 3 at least.

    Meant for a fresh process, so that neither memory nor caches are another measurement's. An arm that writes in
    place goes on with the memory it wrote.
    """
    watch = stopwatch(size.device)
    tiny = replace(TINY, device=size.device)
    with arm.running():  # libraries are loaded, buffers made before memory counts
        watch.seconds(_call(draw(tiny, seed), arm, what, tiny))
    gc.collect()
    before = watch.held_bytes()
    inputs = draw(size, seed)
    with_inputs = watch.held_bytes()
    with arm.running():
        return timed(_call(inputs, arm, what, size), watch, before, with_inputs, repeats, budget)


def timed(
    call: Callable[[], Any], watch: Stopwatch, before: int, with_inputs: int, repeats: int, budget: float
) -> Measurement:
    """A call to warm up, then up to `repeats` within about `budget` seconds, 3 at least.

    What was held `before` anything was made, and `with_inputs`, in bytes, is taken off the peaks.
    """
    watch.reset_peak()
    watch.seconds(call)
    processor = time.process_time()
    seconds = time_calls(watch, repeat(call), repeats, budget)
    processor = time.process_time() - processor
    peak = watch.peak_bytes()
    return Measurement(
        seconds, processor / sum(seconds), peak - before, peak - with_inputs, torch.get_num_threads(), watch.device_name
    )


TINY = OpSize("tiny", subkeys=16, key_dim=8, value_dim=8, heads=1, topk=2, chunk=16, tokens=32)


def _call(inputs: Inputs, arm: Arm, what: str, size: OpSize) -> Callable[[], Any]:
    """One pass, to be timed; it returns all it made."""
    wanted = [getattr(inputs, name).requires_grad_() for name in PASSES[what]]

    def call() -> Any:
        with torch.set_grad_enabled(bool(wanted)):
            result = scan(inputs, arm, size)
            if not wanted:
                return result
            return result, torch.autograd.grad((result.output * inputs.cotangent).sum(), wanted)

    return call
