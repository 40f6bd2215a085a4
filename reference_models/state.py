"""The state of a model: everything that goes from one call to the next, and nothing else does."""

from __future__ import annotations

from dataclasses import dataclass, field

from fwpkm_eval.reference_models.attention import MixerState
from fwpkm_eval.reference_models.memory_layers import MemoryState


@dataclass
class ModelState:
    """What a model knows after the tokens it has read.

    position: tokens of this sequence so far. mixers: attention caches or recurrent matrices, one a layer (None before
    the first token). memories: fast weights and their queues, by layer.
    """

    position: int = 0
    mixers: list[MixerState | None] = field(default_factory=list)
    memories: dict[int, MemoryState] = field(default_factory=dict)

    def copy(self) -> ModelState:
        """A state that shares no fast weights with this one (caches are never changed in place: they are shared)."""
        return ModelState(self.position, list(self.mixers), {n: m.copy() for n, m in self.memories.items()})

    def fresh_sequence(self) -> ModelState:
        """The same fast weights (shared, not copied) before a new sequence: position 0, no caches, nothing queued."""
        memories = {n: MemoryState(m.memory) for n, m in self.memories.items()}
        return ModelState(0, [None] * len(self.mixers), memories)

    @property
    def queued_tokens(self) -> int:
        """Tokens that were read and not written yet."""
        return max((m.queue.tokens for m in self.memories.values()), default=0)
