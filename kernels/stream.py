"""Streaming: memories that read at once and write when enough tokens wait, however the stream is cut into calls.

Tokens are read with the fast weights of the moment. Their (query, target, gate) wait in a queue; as soon as C + L
tokens wait, tokens 0…C−1 are written with their targets L ahead, and the last L stay queued. A flush writes what has a
target and drops the last L. So a token sees the writes of every chunk that was complete, with its lookahead, before it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.backends import chunk_ops, resolve_backend
from fwpkm_eval.kernels.chunk import ChunkInputs, ChunkOps
from fwpkm_eval.kernels.dense import DenseRule, shifted_target
from fwpkm_eval.kernels.graph_capture import Inputs, Outputs, Step
from fwpkm_eval.kernels.graphs import run_step
from fwpkm_eval.kernels.huge_pages import copy_large
from fwpkm_eval.kernels.observe import MemoryObserver, Places, Write, first, shift
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.types import MemoryRule


class Memory(Protocol):
    """Fast weights with their rule."""

    @property
    def lookahead(self) -> int: ...

    def read(self, query: Tensor) -> Tensor:
        """query [B,T,·] → [B,T,dv], with the fast weights as they are."""
        ...

    def write(self, query: Tensor, target: Tensor, gate: Tensor | None, places: Places = ()) -> None:
        """One step, in place: query [B,m,·], target [B,m+L,dv] before the lookahead shift.

        gate [B,m] or None: how much each token weighs (LaCT: its three learned rates [B,m,3]).
        places: of the m + L tokens, for whoever observes the memory.
        """
        ...


@dataclass
class ProductKeyMemory:
    """FwPKM's fast weights: keys [H,2,S,dk/2], values [S²,dv], written in place.

    count: whose reads N_i counts at a write. "written", the tokens being written; "read", the tokens read since the
    last write, as the published implementation does, with its factor (tokens read)/(tokens written).
    observer: who is told of every read and write. writes: how many there were.
    backend: "auto", "torch" or "triton", which reads and writes.
    """

    keys: Tensor
    values: Tensor
    rule: MemoryRule
    count: Literal["written", "read"] = "written"
    observer: MemoryObserver | None = field(default=None, repr=False)
    writes: int = 0
    backend: str = "auto"
    _since: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def lookahead(self) -> int:
        return self.rule.lookahead

    @property
    def fast_weights(self) -> dict[str, Tensor]:
        """The tensors themselves, by name."""
        return {"keys": self.keys, "values": self.values}

    @property
    def _ops(self) -> ChunkOps:
        return chunk_ops(resolve_backend(self.backend, self.values.device))

    def read(self, query: Tensor) -> Tensor:
        query = query.to(self.values.dtype)
        with full_precision(query.device):
            output, slots, weights = self._ops.read_memory(query, self.keys, self.values, self.rule)
        if self.count == "read":
            self._since.append(slots)
        if self.observer is not None:
            self.observer.read(*(x.view(*query.shape[:2], -1) for x in (slots.long(), weights)))
        return output

    def write(self, query: Tensor, target: Tensor, gate: Tensor | None, places: Places = ()) -> None:
        query_places, target_places = first(places, query.shape[1]), shift(places, self.lookahead)
        self.write_pairs(query, target[:, self.lookahead :], gate, query_places, target_places)

    @torch.no_grad()
    def write_pairs(
        self,
        query: Tensor,
        target: Tensor,
        gate: Tensor | None,
        query_places: Places = (),
        target_places: Places = (),
    ) -> None:
        """`write` with the target [B,m,dv] of each query already beside it."""
        dtype = self.values.dtype
        # Every token has its target beside it, so for the step itself the lookahead is 0.
        rule = MemoryRule(**{**vars(self.rule), "lookahead": 0})
        query, target, gate = query.to(dtype), target.to(dtype), None if gate is None else gate.to(dtype)
        counted = torch.cat(self._since) if self._since else None
        inputs, ops = (query, target, gate, counted), self._ops
        with full_precision(query.device):
            slots, weights = run_step(("write", ops, rule), _step(ops, rule), inputs, self.keys, self.values)
        self._since = []
        self.writes += 1
        if self.observer is not None:
            slots, weights = (x.view(*query.shape[:2], -1) for x in (slots.long(), weights))
            self.observer.wrote(Write(query, target, gate, slots, weights, query_places, target_places))

    def copy(self) -> ProductKeyMemory:
        observer = None if self.observer is None else self.observer.copy()
        keys, values, since = self.keys.clone(), copy_large(self.values), list(self._since)
        return ProductKeyMemory(keys, values, self.rule, self.count, observer, self.writes, self.backend, since)


def _step(ops: ChunkOps, rule: MemoryRule) -> Step:
    """One write: (query, target, gate, counted) as `ChunkOps.step_chunk` has them → its reads' slots and weights."""

    def step(inputs: Inputs, keys: Tensor, values: Tensor) -> Outputs:
        query, target, gate, counted = inputs
        assert query is not None
        assert target is not None
        done = ops.step_chunk(ChunkInputs(query, target, gate, rule), keys, values, counted=counted)
        return done.slots, done.weights

    return step


@dataclass
class DenseMemory:
    """FwMLP's or LaCT's fast weights (see `fwmlp_scan`, `lact_scan`), replaced at each write. writes: how many."""

    weights: dict[str, Tensor]
    rule: DenseRule
    writes: int = 0

    @property
    def lookahead(self) -> int:
        return self.rule.lookahead

    @property
    def fast_weights(self) -> dict[str, Tensor]:
        """The tensors themselves, by name."""
        return self.weights

    def read(self, query: Tensor) -> Tensor:
        with full_precision(query.device):
            return self.rule.read(query.to(self.weights["w_up"].dtype), self.weights)

    def write(self, query: Tensor, target: Tensor, gate: Tensor | None, places: Places = ()) -> None:
        dtype = self.weights["w_up"].dtype
        wanted = shifted_target(target.to(dtype), self.rule.lookahead, self.rule.target_rule)
        rates = None if gate is None else gate.to(dtype)
        with full_precision(query.device):
            self.weights = self.rule.step(query.to(dtype), wanted, rates, self.weights)
        self.writes += 1

    def copy(self) -> DenseMemory:
        return DenseMemory({name: w.clone() for name, w in self.weights.items()}, self.rule, self.writes)


class QueuedPiece(NamedTuple):
    """Tokens that wait together: query [B,t,·], target [B,t,dv], gate as `Memory.write` takes it, and their places."""

    query: Tensor
    target: Tensor
    gate: Tensor | None
    places: Places


@dataclass
class WriteQueue:
    """Tokens that were read and not yet written."""

    pieces: list[QueuedPiece] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(piece.query.shape[1] for piece in self.pieces)

    @property
    def end(self) -> int:
        """Where the token behind the last one stands; there must be one."""
        return self.pieces[-1].places[-1].stop

    def append(self, query: Tensor, target: Tensor, gate: Tensor | None, place: int = 0) -> None:
        places = (range(place, place + query.shape[1]),)
        gate = None if gate is None else gate.detach()
        self.pieces.append(QueuedPiece(query.detach(), target.detach(), gate, places))

    def joined(self) -> QueuedPiece:
        """All that waits, as one piece; there must be something."""
        query = torch.cat([piece.query for piece in self.pieces], 1)
        target = torch.cat([piece.target for piece in self.pieces], 1)
        gates = [piece.gate for piece in self.pieces if piece.gate is not None]
        places = tuple(run for piece in self.pieces for run in piece.places)
        return QueuedPiece(query, target, torch.cat(gates, 1) if gates else None, places)

    def write(self, memory: Memory, count: int) -> None:
        """Writes the first `count` tokens into memory; those after them stay queued."""
        query, target, gate, places = self.joined()
        with_target = count + memory.lookahead
        memory.write(
            query[:, :count],
            target[:, :with_target],
            None if gate is None else gate[:, :count],
            first(places, with_target),
        )
        after = None if gate is None else gate[:, count:]
        rest = QueuedPiece(query[:, count:], target[:, count:], after, shift(places, count))
        self.pieces = [rest] if rest.query.shape[1] else []

    def copy(self) -> WriteQueue:
        return WriteQueue(list(self.pieces))


def read_and_queue(
    memory: Memory,
    queue: WriteQueue,
    query: Tensor,
    target: Tensor,
    gate: Tensor | None,
    chunk_size: int | None,
    place: int = 0,
) -> Tensor:
    """Feeds a piece of a stream: reads it, queues it, and writes whenever chunk_size + L tokens wait.

    query [B,T,·], target [B,T,dv] before the shift, gate [B,T] or None (or as `Memory.write` takes it); chunk_size
    None: only `flush` writes. place: where the piece's first token stands, for whoever observes the memory.
    Returns the reads [B,T,dv]. Cutting a stream into other pieces gives the same reads and the same fast weights.
    """
    if chunk_size is not None:
        if chunk_size < 1:
            raise UserError(f"chunk_size is {chunk_size}; it must be at least 1 token")
        if queue.tokens >= chunk_size + memory.lookahead:  # left by calls with a larger chunk: one write takes them all
            queue.write(memory, queue.tokens - memory.lookahead)
    outputs = []
    start, tokens = 0, query.shape[1]
    while start < tokens:
        stop = tokens if chunk_size is None else min(tokens, start + chunk_size + memory.lookahead - queue.tokens)
        part = slice(start, stop)
        outputs.append(memory.read(query[:, part]))
        queue.append(query[:, part], target[:, part], None if gate is None else gate[:, part], place + start)
        if chunk_size is not None and queue.tokens == chunk_size + memory.lookahead:
            queue.write(memory, chunk_size)
        start = stop
    return torch.cat(outputs, 1)


def flush(memory: Memory, queue: WriteQueue) -> None:
    """Writes every queued token that has a target and empties the queue (the end of a reading)."""
    count = queue.tokens - memory.lookahead
    if count > 0:
        queue.write(memory, count)
    queue.pieces = []
