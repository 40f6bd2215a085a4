"""An observer that knows, for every slot of a memory, which pairs of tokens were last written there.

Shapes: m tokens written, T tokens read, H heads, k top-k.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.observe import Write, listed


@dataclass(frozen=True)
class NotedWrite:
    """A write: its number and the reading it belongs to (both from 1); slots [m,H·k] and how strongly each token wrote.

    strength [m,H·k] = w·g, the read weight times the gate: the share of the token's step v̂ − y that the slot takes.
    """

    number: int
    reading: int
    slots: Tensor
    strength: Tensor
    query_places: list[int]
    target_places: list[int]


@dataclass(frozen=True)
class WrittenPair:
    """Where a pair's tokens stand in what was read, and how strongly it was written."""

    query_place: int
    target_place: int
    strength: float


@dataclass(frozen=True)
class LastWrite:
    """The last write of one slot, the pair that was written most strongly first."""

    number: int
    reading: int
    pairs: list[WrittenPair]


@dataclass
class SlotRecorder:
    """Notes every write, and while `keeps_reads` is set reads and gates, too.

    reading: which reading of the text goes on; set from outside.
    """

    reading: int = 1
    keeps_reads: bool = False
    writes: list[NotedWrite] = field(default_factory=list)
    slots: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    gates: list[Tensor] = field(default_factory=list)

    def read(self, slots: Tensor, weights: Tensor) -> None:
        if self.keeps_reads:
            self.slots.append(slots[0].cpu())
            self.weights.append(weights[0].cpu())

    def gated(self, gate: Tensor, place: int) -> None:
        if self.keeps_reads:
            self.gates.append(gate[0].cpu())

    def wrote(self, write: Write) -> None:
        strength = write.weights if write.gate is None else write.weights * write.gate.unsqueeze(-1)
        self.writes.append(
            NotedWrite(
                len(self.writes) + 1,
                self.reading,
                write.slots[0].to("cpu", torch.int32),
                strength[0].to("cpu", torch.float32),
                listed(write.query_places),
                listed(write.target_places),
            )
        )

    def copy(self) -> SlotRecorder:
        kept = (list(self.writes), list(self.slots), list(self.weights), list(self.gates))
        return SlotRecorder(self.reading, self.keeps_reads, *kept)

    def last_write(self, slot: int) -> LastWrite | None:
        """What was last written into a slot; None if nothing ever was."""
        for write in reversed(self.writes):
            tokens, columns = (write.slots == slot).nonzero(as_tuple=True)
            if len(tokens):
                strengths: dict[int, float] = {}
                for token, strength in zip(tokens.tolist(), write.strength[tokens, columns].tolist(), strict=True):
                    strengths[token] = strengths.get(token, 0.0) + strength  # two heads may have read the same slot
                pairs = [WrittenPair(write.query_places[t], write.target_places[t], s) for t, s in strengths.items()]
                pairs.sort(key=lambda pair: (-pair.strength, pair.query_place))
                return LastWrite(write.number, write.reading, pairs)
        return None


def record(state: Any, model_name: str) -> dict[int, SlotRecorder]:
    """Sets a recorder on every FwPKM of a fresh state, by layer. UserError if there is none."""
    from fwpkm_eval.kernels.stream import ProductKeyMemory

    recorders = {}
    for number, held in state.memories.items():
        if isinstance(held.memory, ProductKeyMemory):
            held.memory.observer = recorders[number] = SlotRecorder()
    if not recorders:
        raise UserError(f"{model_name} has no FwPKM and so no slots to trace: name a model such as gdn+swa:fwpkm")
    return recorders
