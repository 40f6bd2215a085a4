"""The state of a model: everything that goes from one call to the next, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fwpkm_eval.reference_models.attention import MixerState
from fwpkm_eval.reference_models.memory_layers import MemoryState
from fwpkm_eval.reference_models.yarn import Yarn


@dataclass
class ModelState:
    """What a model knows after the tokens it has read.

    position: tokens of this sequence so far. mixers: attention caches or recurrent matrices, one a layer (None before
    the first token). memories: fast weights and their queues, by layer. origin: where this sequence's first token
    stands in all the text that the memories were ever shown; only who observes a memory asks for it. yarn: how full
    attention rotates, from a sequence's first token to its last. weights: the hash of the checkpoint whose model it is
    of; "" where that was not loaded from one.

    States share what does not differ, to spare memory: `fresh_sequence` and a call with updates "off" give states with
    the very fast weights of the one they come from. Only a call or a flush with ``inplace=True`` changes fast weights
    that another state may hold; `copy` gives a state that shares none. States are equal where a model goes on alike
    from both: position, rotation, caches, fast weights and queued tokens, bit for bit.
    """

    position: int = 0
    mixers: list[MixerState | None] = field(default_factory=list)
    memories: dict[int, MemoryState] = field(default_factory=dict)
    origin: int = 0
    yarn: Yarn | None = None
    weights: str = ""

    def __repr__(self) -> str:
        """In one line: what was read and written, without the tensors."""
        parts = [f"position {self.position}"]
        if self.memories:
            layers = ", ".join(f"{n}: {held.memory.writes} writes" for n, held in sorted(self.memories.items()))
            parts += [f"memory of layer {layers}", f"{self.queued_tokens} tokens queued"]
        return f"ModelState({'; '.join(parts)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ModelState):
            return NotImplemented
        if (self.position, self.yarn, len(self.mixers)) != (other.position, other.yarn, len(other.mixers)):
            return False
        return self.memories.keys() == other.memories.keys() and all(
            _same(ours, theirs) for ours, theirs in zip(self._tensors(), other._tensors(), strict=True)
        )

    def _tensors(self) -> list[Mapping[str, Tensor | None]]:
        """All that it holds, in an order that is the same for two states of as many layers and the same memories."""
        held: list[Mapping[str, Tensor | None]] = [mixer or {} for mixer in self.mixers]
        for _, memory in sorted(self.memories.items()):
            held += [memory.memory.fast_weights, {"past": memory.past}]
            if memory.queue.pieces:
                waiting = memory.queue.joined()
                held.append({"query": waiting.query, "target": waiting.target, "gate": waiting.gate})
            else:
                held.append({})
        return held

    def copy(self) -> ModelState:
        """A state that shares no fast weights with this one (caches are never changed in place: they are shared)."""
        memories = {n: m.copy() for n, m in self.memories.items()}
        return ModelState(self.position, list(self.mixers), memories, self.origin, self.yarn, self.weights)

    def fresh_sequence(self) -> ModelState:
        """The same fast weights (shared, not copied) before a new sequence: position 0, no caches, nothing queued.

        The new sequence is taken to be another reading of the same text: its origin is this one's.
        """
        memories = {n: MemoryState(m.memory) for n, m in self.memories.items()}
        return ModelState(0, [None] * len(self.mixers), memories, self.origin, self.yarn, self.weights)

    @property
    def fast_weights(self) -> dict[int, dict[str, Tensor]]:
        """The tensors themselves, by layer and name: "keys" [H,2,S,dk/2] and "values" [S²,dv], or those of an MLP."""
        return {number: held.memory.fast_weights for number, held in self.memories.items()}

    def assert_fresh(self) -> None:
        """Refuses a state in which anything was read: what starts from it would not start from nothing.

        Raises:
            RuntimeError: there is a position, a cache, a queued token, a convolution's past, or a write.
        """
        found = [f"position {self.position}"] * (self.position != 0)
        found += [f"a cache in layer {number}" for number, mixer in enumerate(self.mixers) if mixer is not None]
        for number, held in self.memories.items():
            found += [f"{held.queue.tokens} queued tokens in layer {number}"] * (held.queue.tokens > 0)
            found += [f"a convolution's past in layer {number}"] * (held.past is not None)
            found += [f"{held.memory.writes} writes in layer {number}"] * (held.memory.writes > 0)
        if found:
            raise RuntimeError(f"a fresh state is needed; this one has {', '.join(found)}")

    @property
    def place(self) -> int:
        """Where the next token stands in all the text that the memories were ever shown."""
        return self.origin + self.position

    @property
    def queued_tokens(self) -> int:
        """Tokens that were read and not written yet."""
        return max((m.queue.tokens for m in self.memories.values()), default=0)


def _same(ours: Mapping[str, Tensor | None], theirs: Mapping[str, Tensor | None]) -> bool:
    """Whether two mappings hold the same tensors, bit for bit (but for the sign of a zero)."""
    if ours.keys() != theirs.keys():
        return False
    for name, x in ours.items():
        y = theirs[name]
        if x is None or y is None:
            if x is not y:
                return False
        elif (x.dtype, x.device) != (y.dtype, y.device) or not torch.equal(x, y):
            return False
    return True
