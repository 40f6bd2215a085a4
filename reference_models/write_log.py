"""The log of what a memory wrote, and forgetting: the writes replayed as if a span of tokens had not been stored.

A write stores pairs: token t (where, by its query, and how strongly, by its gate) → token t + L (what, by its target).
*To forget a span* of tokens is to go back to the first fast weights and replay every logged write in order, with
the gate of each pair that has an end in the span set to 0. Of the values, what the span's tokens wrote is then gone,
and so are the pairs of the L tokens before it, whose targets were the span's first tokens. All other pairs keep their
strength: the counts N_i are those of the writes as they were. So are the steps of the keys, which hold where to look
and no contents (but for ``addressing: none``, where the gate weighs the keys' steps, too).
With ``keys="undone"`` these pairs are left out of their writes altogether: they count in no N_i and move no key, as if
they had never been queued.

The inputs (query, target, gate) of the other tokens are those in the log. What later tokens had already taken from the
span when they were read (by attention, recurrence or reads of the memory) is in their own inputs and stays there.

The log holds the forgotten targets no more (they are set to 0), nor, with ``keys="undone"``, the forgotten queries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.kernels.observe import Places, Write, listed, runs
from fwpkm_eval.kernels.stream import ProductKeyMemory
from fwpkm_eval.reference_models.state import ModelState

Keys = Literal["kept", "undone"]
KEYS: tuple[Keys, ...] = get_args(Keys)


@dataclass(frozen=True)
class LoggedWrite:
    """What one write was given: query [1,m,H·dk], target [1,m,dv] beside its query, gate [1,m] or None, in float32."""

    query: Tensor
    target: Tensor
    gate: Tensor | None
    query_places: Places
    target_places: Places

    @property
    def bytes(self) -> int:
        tensors = (self.query, self.target, self.gate)
        return sum(x.numel() * x.element_size() for x in tensors if x is not None)

    def without(self, span: range, keys: Keys = "kept") -> LoggedWrite | None:
        """The write without the pairs that have an end in the span; None if it has none left to leave out from."""
        ends = zip(listed(self.query_places), listed(self.target_places), strict=True)
        forgotten = torch.tensor([query in span or target in span for query, target in ends])
        if not forgotten.any():
            return self
        device = self.query.device
        if keys == "kept":
            gone = forgotten.to(device)
            gate = self.query.new_ones(self.query.shape[:2]) if self.gate is None else self.gate
            target = self.target.masked_fill(gone[:, None], 0)
            return LoggedWrite(self.query, target, gate.masked_fill(gone, 0), self.query_places, self.target_places)
        if forgotten.all():
            return None
        kept = (~forgotten).nonzero().squeeze(-1)
        rest = [None if x is None else x[:, kept.to(device)] for x in (self.query, self.target, self.gate)]
        assert rest[0] is not None
        assert rest[1] is not None
        query_places, target_places = (
            runs([place for place, gone in zip(listed(places), forgotten.tolist(), strict=True) if not gone])
            for places in (self.query_places, self.target_places)
        )
        return LoggedWrite(rest[0], rest[1], rest[2], query_places, target_places)


@dataclass
class WriteLog:
    """An observer that keeps what every write was given, and nothing of the reads."""

    writes: list[LoggedWrite] = field(default_factory=list)

    def read(self, slots: Tensor, weights: Tensor) -> None:
        pass

    def gated(self, gate: Tensor, place: int) -> None:
        pass

    def wrote(self, write: Write) -> None:
        if write.query.shape[0] != 1:
            raise UserError(
                f"a write log is kept for one sequence at a time, not for a batch of {write.query.shape[0]}"
            )
        self.writes.append(LoggedWrite(write.query, write.target, write.gate, write.query_places, write.target_places))

    def copy(self) -> WriteLog:
        return WriteLog(list(self.writes))

    @property
    def bytes(self) -> int:
        return sum(write.bytes for write in self.writes)


def keep_log(state: ModelState) -> ModelState:
    """The state, each of whose memories logs its writes from now on.

    A log is kept from the first write on: what was written before could not be replayed.

    Raises:
        UserError: a memory that is not FwPKM (its writes have no gate), or none at all.
        RuntimeError: the state is not fresh.
    """
    state.assert_fresh()
    if not state.memories:
        raise UserError("this model has no fast weights: there are no writes to log")
    for number, held in state.memories.items():
        if not isinstance(held.memory, ProductKeyMemory):
            raise UserError(f"layer {number} holds {held.memory.rule.name}: a log of writes is kept for fwpkm alone")
        held.memory.observer = WriteLog()
    return state


def log_of(memory: object) -> WriteLog | None:
    """The log that a memory keeps, if it keeps one."""
    observer = memory.observer if isinstance(memory, ProductKeyMemory) else None
    return observer if isinstance(observer, WriteLog) else None


def replay(first: ProductKeyMemory, writes: list[LoggedWrite]) -> ProductKeyMemory:
    """The memory after the writes, from `first` on, which is changed in place; it keeps a log of them."""
    first.observer = WriteLog()
    for write in writes:
        first.write_pairs(write.query, write.target, write.gate, write.query_places, write.target_places)
    return first


def forget(
    first: ProductKeyMemory, memory: ProductKeyMemory, span: range, keys: Keys = "kept", name: str = "the memory"
) -> ProductKeyMemory:
    """The memory as it is when the span was not stored (see the head of this file). `memory` stays as it is.

    first: the fast weights before the first logged write.

    Raises:
        UserError: no log; or its replay does not give `memory` bit for bit (another device, or other code, made it), so
            that nothing could be forgotten exactly.
    """
    if keys not in KEYS:
        raise unknown("keys", str(keys), KEYS)
    log = log_of(memory)
    if log is None:
        raise UserError(f"{name} has no write log, so nothing can be forgotten exactly: it must be kept from the start")
    again = replay(first.copy(), log.writes)
    if not (same_bits(again.keys, memory.keys) and same_bits(again.values, memory.values)):
        raise UserError(f"{name}: replaying its write log on this device does not give its fast weights bit for bit")
    left = [write.without(span, keys) for write in log.writes]
    return replay(first.copy(), [write for write in left if write is not None])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two float32 tensors are the same bit for bit, what is not a number included."""
    return torch.equal(a.contiguous().view(torch.int32), b.contiguous().view(torch.int32))
