"""A state together with what is to be known of it without its model: to show it, to reset it, to make it forget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.kernels.stream import DenseMemory, ProductKeyMemory, QueuedPiece
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.language_model import values_seed
from fwpkm_eval.reference_models.memory_layers import (
    MemoryState,
    dense_rule,
    first_dense_weights,
    first_values,
    memory_rule,
)
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.reference_models.write_log import Keys, LoggedWrite, WriteLog, forget, log_of


@dataclass(frozen=True)
class Span:
    """Tokens start … stop − 1 of all that was read, under a name."""

    name: str
    start: int
    stop: int

    @property
    def places(self) -> range:
        return range(self.start, self.stop)


@dataclass
class StoredState:
    """A state and what its file says of it.

    first: by layer what its fast weights were before anything was read, as far as a seed does not tell: keys
    [H,2,S,dk/2] of a FwPKM, and what `kept_weights` has besides. tokens_read: in all, each reading counted. forgotten:
    spans that were forgotten.
    """

    config: ModelConfig
    seed: int
    weights_hash: str
    state: ModelState
    first: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    tokens_read: int = 0
    spans: list[Span] = field(default_factory=list)
    forgotten: list[Span] = field(default_factory=list)

    def first_memory(self, layer: int) -> ProductKeyMemory | DenseMemory:
        """The fast weights of a layer before anything was read, on the CPU."""
        return first_memory(self.config, self.seed, layer, self.first.get(layer, {}))

    def to(self, device: torch.device | str) -> StoredState:
        """Moves the state to a device, in place."""

        def there(x: Tensor | None) -> Any:
            return None if x is None else x.to(device)

        state = self.state
        for held in state.memories.values():
            memory = held.memory
            if isinstance(memory, ProductKeyMemory):
                memory.keys, memory.values = there(memory.keys), there(memory.values)
                log = log_of(memory)
                if log is not None:
                    log.writes = [
                        LoggedWrite(there(w.query), there(w.target), there(w.gate), w.query_places, w.target_places)
                        for w in log.writes
                    ]
            else:
                memory.weights = {name: there(weight) for name, weight in memory.weights.items()}
            held.past = there(held.past)
            held.queue.pieces = [
                QueuedPiece(there(p[0]), there(p[1]), there(p[2]), p.places) for p in held.queue.pieces
            ]
        state.mixers = [None if mixer is None else {n: there(x) for n, x in mixer.items()} for mixer in state.mixers]
        return self

    @property
    def has_log(self) -> bool:
        return any(log_of(held.memory) is not None for held in self.state.memories.values())

    @property
    def log_bytes(self) -> int:
        logs = (log_of(held.memory) for held in self.state.memories.values())
        return sum(log.bytes for log in logs if log is not None)

    def span(self, name: str) -> Span:
        """The span of that name. UserError if there is none."""
        for span in self.spans:
            if span.name == name:
                return span
        if not self.spans:
            raise UserError(f"no label {name!r}: this state has no named spans; give --span a:b")
        raise unknown("label", name, [span.name for span in self.spans])

    def reset(self) -> StoredState:
        """The same model's state before anything was read; it logs its writes if this one does."""
        memories = {}
        for number in self.state.memories:
            memory = self.first_memory(number)
            if self.has_log and isinstance(memory, ProductKeyMemory):
                memory.observer = WriteLog()
            memories[number] = MemoryState(memory)
        fresh = ModelState(0, [None] * len(self.state.mixers), memories, weights=self.weights_hash)
        return StoredState(self.config, self.seed, self.weights_hash, fresh, self.first)

    def forget(self, span: Span, keys: Keys = "kept") -> StoredState:
        """The state when the span was not stored (see `write_log`), before a new sequence.

        The sequence that was being read is ended: its attention caches and recurrent matrices hold what they have seen
        and cannot be made to forget.

        Raises:
            UserError: no write log, tokens that wait to be written, or a log that does not give this state.
        """
        if not self.has_log:
            raise UserError("this state holds no write log, so nothing can be forgotten exactly: save it with --log")
        if self.state.queued_tokens:
            raise UserError(f"{self.state.queued_tokens} tokens wait to be written: flush the state before it forgets")
        memories = {}
        for number, held in self.state.memories.items():
            first = self.first_memory(number)
            assert isinstance(first, ProductKeyMemory)
            assert isinstance(held.memory, ProductKeyMemory)
            device = held.memory.values.device
            first.keys, first.values = first.keys.to(device), first.values.to(device)
            memories[number] = MemoryState(forget(first, held.memory, span.places, keys, f"layer {number}"))
        after = replace(self.state.fresh_sequence(), memories=memories, yarn=self.state.yarn)
        spans = [one for one in self.spans if not (span.start <= one.start and one.stop <= span.stop)]
        forgotten = [*self.forgotten, span]
        about = (self.config, self.seed, self.weights_hash)
        return StoredState(*about, after, self.first, self.tokens_read, spans, forgotten)


def first_memory(
    config: ModelConfig, seed: int, layer: int, kept: Mapping[str, Tensor]
) -> ProductKeyMemory | DenseMemory:
    """A layer's fast weights before anything was read, on the CPU; kept: those that are not drawn from the seed."""
    drawn_from = values_seed(seed, layer)
    if layer in config.spec.layers("fwpkm"):
        values = kept["values"].clone() if "values" in kept else first_values(config.fwpkm, drawn_from)
        return ProductKeyMemory(kept["keys"].clone(), values, memory_rule(config.fwpkm))
    dense = config.lact if layer in config.spec.layers("lact") else config.fwmlp
    weights = {name: x.clone() for name, x in kept.items()} or first_dense_weights(dense, drawn_from)
    return DenseMemory(weights, dense_rule(dense))
