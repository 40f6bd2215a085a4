"""Checks and times the operations of `pieces`, one backend in a process."""

from __future__ import annotations

import dataclasses
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.bench.correctness import relative_error
from fwpkm_eval.bench.ops import OpSize
from fwpkm_eval.bench.pieces import PIECES, Chunk, Piece, chunks_of
from fwpkm_eval.bench.stopwatch import Stopwatch, stopwatch, time_calls

REFERENCE_BACKEND = "reference"
BANDWIDTH_BYTES = 2**28
"""Size of the buffers that are copied to measure the bandwidth: larger than any cache."""


@dataclass(frozen=True)
class PieceMeasurement:
    """seconds of each call; bytes_moved: by each, at least; above_inputs_bytes: the most memory held beyond inputs."""

    seconds: list[float]
    bytes_moved: int
    above_inputs_bytes: int
    tokens: int


def check_pieces(size: OpSize, seed: int, backends: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """The largest relative error of each backend's operations against the reference: {backend: {operation: error}}."""
    found: dict[str, dict[str, float]] = {backend: {} for backend in backends}
    (chunk,) = chunks_of(size, seed, count=1)
    for piece in PIECES.values():
        for what in piece.passes:
            expected = _computed(piece, REFERENCE_BACKEND, what, chunk)
            for backend in backends:
                if has_arm(piece, backend):
                    try:
                        error = worst_error(_computed(piece, backend, what, chunk), expected)
                    except Exception as problem:  # as in `correctness.compare`
                        print(f"{piece.name}, {what}, {backend} does not run: {problem}", file=sys.stderr)
                        error = float("inf")
                    found[backend][piece.name] = max(error, found[backend].get(piece.name, 0.0))
    return found


def has_arm(piece: Piece, backend: str) -> bool:
    """Whether a backend has the operation."""
    return backend in piece.arms or backend == "triton"


def worst_error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """The largest relative error; infinite where other slots are read, or something is missing or no number."""
    if set(found) != set(expected):
        return float("inf")
    worst = 0.0
    for name, value in expected.items():
        if value.dtype == torch.int64:
            same = torch.equal(found[name].sort(-1).values.long(), value.sort(-1).values)
            error = 0.0 if same else float("inf")
        else:
            ours = found[name]
            if name == "weights":  # equal scores may come in any order
                ours, value = ours.sort(-1).values, value.sort(-1).values
            error = relative_error(ours, value)
        worst = max(worst, error if error == error else float("inf"))
    return worst


def measure_pieces(
    size: OpSize, seed: int, backend: str, repeats: int, budget: float
) -> dict[tuple[str, str], PieceMeasurement]:
    """Every operation of a backend, {(operation, pass): measurement}: warmed up on each chunk, then by turns.

    Some take a GPU less time than Python takes to launch them: what is held against a bandwidth is the GPU's own time.
    """
    chunks, watch = chunks_of(size, seed), stopwatch(size.device, queued=True)
    found = {}
    for piece in PIECES.values():
        if not has_arm(piece, backend):
            continue
        for what in piece.passes:
            found[piece.name, what] = _measure(piece, backend, what, chunks, repeats, budget, watch)
    return found


def _measure(
    piece: Piece, backend: str, what: str, chunks: list[Chunk], repeats: int, budget: float, watch: Stopwatch
) -> PieceMeasurement:
    def calls() -> Iterator[Callable[[], Any]]:
        for chunk in cycle(chunks):
            # On a copy of the chunk's record: the reference's write puts new values into it.
            yield partial(piece.call, backend, what, dataclasses.replace(chunk))

    gc.collect()
    before = watch.held_bytes()
    watch.reset_peak()
    for call in islice(calls(), len(chunks)):  # each chunk's own: some keep what they look up for the calls after
        watch.seconds(call)
    seconds = time_calls(watch, calls(), repeats, budget)
    above = max(0, watch.peak_bytes() - before)
    return PieceMeasurement(seconds, piece.bytes_moved(chunks[0]), above, chunks[0].tokens)


def measure_bandwidth(device: str = "cpu", repeats: int = 5) -> float:
    """Bytes per second of a large copy, read and written: the best of some."""
    watch = stopwatch(device, queued=True)
    source = torch.ones(BANDWIDTH_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    return 2 * BANDWIDTH_BYTES / min(watch.seconds(lambda: target.copy_(source)) for _ in range(repeats))


def _computed(piece: Piece, backend: str, what: str, chunk: Chunk) -> dict[str, Tensor]:
    """What is compared; of values that were written what they changed by, in the rows that were read."""
    own = dataclasses.replace(chunk, values=chunk.values.clone()) if piece.name == "write" else chunk
    found = piece.call(backend, what, own)
    if "values" in found:
        rows = chunk.reads.slots.unique()
        found["values"] = found["values"][rows] - chunk.values[rows]
    return found


def do_pieces(job: Mapping[str, Any], size: OpSize) -> dict[str, Any]:
    """A worker's job ``check-pieces`` or ``pieces``; JSON values."""
    if job["what"] == "check-pieces":
        return check_pieces(size, job["seed"], tuple(job["backends"]))
    measured = measure_pieces(size, job["seed"], job["backend"], job["repeats"], job["budget"])
    return {
        "bandwidth": measure_bandwidth(size.device),
        "threads": torch.get_num_threads(),
        "measured": [[name, what, dataclasses.asdict(one)] for (name, what), one in measured.items()],
    }
