"""Our FwPKM layer beside that of a peer package, if it is installed: the same sizes, one process each.

The peer (`fast-weight-product-key-memory` on PyPI) implements the paper with differences of its own: fast weights for
each row of a batch, an embedding at chunk borders in place of the lookahead, another gradient to the keys, and the last
chunk left in a queue. Its outputs are therefore not ours, and only what it costs is compared: projections, reads and
writes of B sequences of T tokens, D = dv features wide.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval import __version__
from fwpkm_eval.bench.ops import TINY, Measurement, OpSize, timed
from fwpkm_eval.bench.ratios import percentiles, times_as_fast
from fwpkm_eval.bench.stopwatch import stopwatch
from fwpkm_eval.bench.worker import Runner, Together, attempt, run_in_process_of_its_own
from fwpkm_eval.memory_limit import available_memory, is_out_of_memory, limit_memory
from fwpkm_eval.runs.rows import Row

PEER = "fast-weight-product-key-memory"
OURS = "fwpkm_eval"
USABLE = 0.8
"""Share of the available memory that a layer may take: the peer's training keeps gigabytes of distances."""
PASSES = ("forward", "training")
"""forward: without gradients. training: gradients of the input and of all projections, not of first keys and values."""


@dataclass(frozen=True)
class LayerSpeed:
    """Our layer (`OURS`) or the peer's (`PEER`), and what each pass took."""

    layer: str
    version: str
    size: OpSize
    measured: dict[str, Measurement]

    @property
    def arm(self) -> str:
        """How rows name it: ours without its version, which has a column of its own, so that releases compare."""
        return f"layer/{self.layer}" if self.layer == OURS else f"layer/{self.layer} {self.version}"


def peer_version() -> str | None:
    """Of the installed peer; None if it is not installed."""
    if importlib.util.find_spec("fast_weight_product_key_memory") is None:
        return None
    return importlib.metadata.version(PEER)


def run_peers(
    size: OpSize,
    *,
    failed: dict[str, str],
    threads: int | None,
    repeats: int,
    budget: float,
    runner: Runner = run_in_process_of_its_own,
    tell: Callable[[str], None] = lambda line: None,
    remark: Callable[[str], None] = lambda line: None,
    together: Together = lambda jobs: None,
) -> list[LayerSpeed]:
    """Our layer beside the peer's, pass by pass; nothing where it is not installed.

    A pass that needs too much memory is left out, and ``remark`` is told so; ``failed`` gets those whose process fails.
    """
    version = peer_version()
    if version is None:
        remark(f"{PEER} is not installed: no ratio to it (pip install 'fwpkm-eval[peers]')")
        return []
    found = [LayerSpeed(OURS, __version__, size, {}), LayerSpeed(PEER, version, size, {})]
    common = {"what": "layer", "size": asdict(size), "threads": threads, "repeats": repeats, "budget": budget}
    for what in PASSES:
        jobs = [{**common, "layer": speed.layer, "pass": what} for speed in found]
        # As the system has it: a malloc that keeps freed memory would hide what a call takes.
        together([(job, "default") for job in jobs])
        for speed, job in zip(found, jobs, strict=True):
            name = f"layer of {speed.layer} {speed.version}, {what}"
            tell(name)
            result = attempt(name, runner, job, "default", failed)
            if result is None:
                continue
            if "failed" in result:
                remark(f"{name}: not measured, {result['failed']}")
            else:
                speed.measured[what] = Measurement(**result)
    return found


def steps_of_peers() -> int:
    """How many jobs `run_peers` has."""
    return 0 if peer_version() is None else 2 * len(PASSES)


def measure_layer(job: Mapping[str, Any]) -> dict[str, Any]:
    """A worker's job ``layer``; JSON values: a `Measurement`, or why there is none."""
    if job["size"]["device"] == "cpu":
        limit_memory(int(USABLE * available_memory()))
    try:
        return _measured(job)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return {"failed": "it needs more memory than there is"}


def _measured(job: Mapping[str, Any]) -> dict[str, Any]:
    size = OpSize(**job["size"])
    make, what = _LAYERS[job["layer"]], job["pass"]
    watch = stopwatch(size.device)
    tiny = replace(TINY, device=size.device)
    watch.seconds(_call(make(tiny), what, tiny))  # libraries are loaded before memory counts
    gc.collect()
    before = watch.held_bytes()
    call = _call(make(size), what, size)
    return asdict(timed(call, watch, before, watch.held_bytes(), job["repeats"], job["budget"]))


@dataclass
class _Layer:
    """read: [B,T,D] → [B,T,D], from the memory that the layer starts with; parameters: of its projections."""

    read: Callable[[Tensor], Tensor]
    parameters: Sequence[Tensor]


def _ours(size: OpSize) -> _Layer:
    from fwpkm_eval.reference_models.config import FwPKMConfig, model_config
    from fwpkm_eval.reference_models.memory_layers import FwPKMLayer, MemoryState

    memory = FwPKMConfig(
        subkeys=size.subkeys, key_dim=size.key_dim, value_dim=size.value_dim, heads=size.heads, topk=size.topk
    )
    config = model_config("gdn:fwpkm", "paper")
    config = replace(config, backbone=replace(config.backbone, hidden=size.value_dim), fwpkm=memory)
    layer = FwPKMLayer(config, config.spec.layers("fwpkm")[0])
    layer.init_weights(0.02)
    layer.to(size.device)
    state = MemoryState(layer.initial_memory(0))

    def read(x: Tensor) -> Tensor:
        # It goes on with the memory it wrote, as a model in training does.
        return layer(x, state, "scan", size.chunk)[0]

    return _Layer(read, list(layer.parameters()))


def _peers(size: OpSize) -> _Layer:
    from fast_weight_product_key_memory import fwPKM

    layer = fwPKM(
        size.value_dim,
        heads=size.heads,
        chunk_size=size.chunk,
        num_memories=size.subkeys**2,
        dim_queries_keys=size.heads * size.key_dim // 2,  # of one half
        dim_values=size.value_dim,
        topk=size.topk,
        addressing_loss_weight=1.0,
    ).to(size.device)
    memories = layer.init_memories(size.batch)

    def read(x: Tensor) -> Tensor:
        output: Tensor = layer(x, return_next_memories=True, past_memories=memories)[0]
        return output

    slow = [parameter for name, parameter in layer.named_parameters() if name not in ("memories", "keys")]
    for parameter in (layer.memories, layer.keys):
        parameter.requires_grad_(False)
    return _Layer(read, slow)


_LAYERS = {OURS: _ours, PEER: _peers}


def _call(layer: _Layer, what: str, size: OpSize) -> Callable[[], Any]:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(size.batch, size.tokens, size.value_dim, generator=random).to(size.device)
    wanted = [x.requires_grad_(), *layer.parameters] if what == "training" else []

    def call() -> Any:
        with torch.set_grad_enabled(bool(wanted)):
            output = layer.read(x)
            return torch.autograd.grad(output.square().mean(), wanted, allow_unused=True) if wanted else output

    return call


def peer_rows(found: Sequence[LayerSpeed]) -> Iterator[Row]:
    """Seconds and memory of both layers, arms ``layer/…``; and how many times as fast as the peer ours is."""
    for speed in found:
        size = speed.size
        for what, measured in speed.measured.items():
            low, middle, high = percentiles(measured.seconds)
            calls = len(measured.seconds)
            common: dict[str, Any] = {
                "scale": size.name,
                "task": "bench",
                "dataset": str(size),
                "length": size.tokens,
                "write_chunk": str(size.chunk),
                "protocol": f"threads {measured.threads}",
                "arm": speed.arm,
                "device": measured.device_name,
                "dtype": "float32",
                "version": __version__,
                "n": calls,
                "seconds": sum(measured.seconds),
                "tokens": calls * size.tokens * size.batch,
            }
            yield Row(metric=f"{what}_seconds", value=middle, unit="seconds", ci_low=low, ci_high=high, **common)
            yield Row(
                metric=f"peak_bytes_above_inputs_{what}",
                value=float(measured.above_inputs_bytes),
                unit="bytes",
                **common,
            )
            ratio = ratio_to_peer(found, what)
            if speed.layer == OURS and ratio is not None:
                yield Row(
                    metric=f"speedup_over_peer_{what}",
                    value=ratio[1],
                    unit="ratio",
                    ci_low=ratio[0],
                    ci_high=ratio[2],
                    **common,
                )


def ratio_to_peer(found: Sequence[LayerSpeed], what: str) -> tuple[float, float, float] | None:
    """How many times as fast as the peer's layer ours is, between its bounds; None where one of them was not timed."""
    ours, peers = (next(speed for speed in found if speed.layer == layer).measured.get(what) for layer in (OURS, PEER))
    return None if ours is None or peers is None else times_as_fast(ours.seconds, peers.seconds)
