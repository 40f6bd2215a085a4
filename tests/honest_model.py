"""A small model to test protocols with: its memory is a table of what was written.

It remembers which token followed which ``CONTEXT`` tokens, and recalls it once it was written often enough.
Its outputs also depend on the previous token, on the position in the sequence and on the number of writes,
so that a reading that did not start afresh, or a write too many, shows. It keeps a log of all it was asked
to do, and refuses to go on with a state that an in-place call has used up.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch

from fwpkm_eval.reference_models.config import ModelConfig, model_config

CONTEXT = 8
CONFIG = model_config("fa:fwpkm@2", "micro", chunk_size=64)


@dataclass
class Memory:
    """How often each token was written as the one that follows a context, and how many writes there were.

    ``version`` counts the changes made in place.
    """

    table: dict[tuple[int, ...], dict[int, int]] = field(default_factory=dict)
    writes: int = 0
    version: int = 0

    def copy(self) -> Memory:
        return Memory({context: dict(followers) for context, followers in self.table.items()}, self.writes)


@dataclass
class State:
    memory: Memory
    version: int
    history: tuple[int, ...] = ()
    queue: tuple[tuple[tuple[int, ...], int], ...] = ()
    used_up: bool = False

    def assert_fresh(self) -> None:
        assert (self.history, self.queue, self.used_up, self.memory.writes) == ((), (), False, 0)

    def fresh_sequence(self) -> State:
        self.check()
        return State(self.memory, self.version)

    def copy(self) -> State:
        self.check()
        memory = self.memory.copy()
        return replace(self, memory=memory, version=memory.version)

    def check(self) -> None:
        assert not self.used_up, "this state was given to an in-place call"
        assert self.version == self.memory.version, "the fast weights of this state were changed in place"


@dataclass(frozen=True)
class Call:
    """One call as logged: what was read from which position on, and with which options."""

    tokens: tuple[int, ...]
    position: int
    updates: str
    logits: str
    write_chunk: int | str | None


class HonestModel(torch.nn.Module):
    """``recalls_after``: writes before a token is recalled; ``attends``: recalls from its sequence, too."""

    def __init__(
        self,
        *,
        has_fast_weights: bool = True,
        attends: bool = False,
        recalls_after: int = 1,
        broken_from: int | None = None,
        config: ModelConfig | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("anything", torch.zeros(1))
        self.has_fast_weights = has_fast_weights
        self.attends = attends
        self.recalls_after = recalls_after
        self.broken_from = broken_from
        self.config = config or CONFIG
        self.weights_hash = "0123456789abcdef"
        self.calls: list[Call] = []
        self.written: list[tuple[int, ...]] = []
        self.initial_states = 0

    def initial_state(self, batch_size: int = 1) -> State:
        assert batch_size == 1
        self.initial_states += 1
        return State(Memory(), 0)

    def forward(
        self,
        tokens: torch.Tensor,
        state: State,
        updates: str = "stream",
        write_chunk: int | str | None = None,
        logits: str = "all",
        inplace: bool = False,
    ) -> tuple[torch.Tensor | None, State]:
        assert tokens.dim() == 2
        assert tokens.dtype == torch.int64
        assert not torch.is_grad_enabled()
        assert not self.training
        state.check()
        ids = tuple(tokens[0].tolist())
        self.calls.append(Call(ids, len(state.history), updates, logits, write_chunk))
        memory, history, queue = state.memory, state.history, state.queue
        if inplace:
            state.used_up = True
        owned = inplace
        chunk = (write_chunk or self.config.chunk_size) if updates == "stream" and self.has_fast_weights else 0
        outputs = []
        for token in ids:
            history = (*history, token)
            outputs.append(self._logits(memory, history))
            if chunk:
                queue = (*queue, (history[-CONTEXT:], token))
                if chunk != "haystack" and len(queue) == int(chunk) + 1:
                    memory = memory if owned else memory.copy()
                    owned = True
                    self._write(memory, queue)
                    queue = queue[-1:]
        after = State(memory, memory.version, history, queue)
        if logits == "none":
            return None, after
        kept = outputs if logits == "all" else outputs[-1:]
        return torch.stack(kept)[None], after

    def flush(self, state: State, inplace: bool = False) -> State:
        state.check()
        memory = state.memory if inplace else state.memory.copy()
        if inplace:
            state.used_up = True
        if state.queue:
            self._write(memory, state.queue)
        return State(memory, memory.version, state.history)

    def _write(self, memory: Memory, queue: tuple[tuple[tuple[int, ...], int], ...]) -> None:
        """Writes what followed each queued context; the last one's follower is not there yet."""
        self.written.append(tuple(token for _, token in queue))
        for (context, _), (_, follower) in pairwise(queue):
            followers = memory.table.setdefault(context, {})
            followers[follower] = followers.get(follower, 0) + 1
        memory.writes += 1
        memory.version += 1

    def _logits(self, memory: Memory, history: tuple[int, ...]) -> torch.Tensor:
        places = torch.arange(CONFIG.vocab_size, dtype=torch.float64)
        logits = 0.2 * torch.cos(places * (history[-1] + 1)) + 0.1 * torch.cos(places * (len(history) % 97))
        logits += 0.05 * torch.cos(places * (memory.writes % 89))
        context = history[-CONTEXT:]
        for follower, count in memory.table.get(context, {}).items():
            if count >= self.recalls_after:
                logits[follower] += 4 + 0.25 * min(count, 16)
        if self.attends and len(context) == CONTEXT:
            for place in range(CONTEXT, len(history)):
                if history[place - CONTEXT : place] == context:
                    logits[history[place]] += 6
        if self.broken_from is not None and len(history) >= self.broken_from:
            logits += float("nan")
        return logits.float()
