"""Watching a memory: who sets an observer on one is told of every read and every write.

A memory without an observer does nothing for it but find that there is none. Shapes: B batch, T tokens, m tokens
written, L lookahead, H heads, k top-k.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

Places = tuple[range, ...]
"""Where tokens stand in what was read, in runs: ``(range(0, 64),)``; a gap is tokens that were not queued."""


@dataclass(frozen=True)
class Write:
    """One write, as it was done.

    query [B,m,H·dk] and gate [B,m] (None: no gate) of the tokens written; target [B,m,dv] of the token L after each;
    slots, weights [B,m,H·k]: what the write read, and so wrote to; places of the m tokens and of their targets.
    """

    query: Tensor
    target: Tensor
    gate: Tensor | None
    slots: Tensor
    weights: Tensor
    query_places: Places
    target_places: Places


class MemoryObserver(Protocol):
    """Told by a `kernels.stream.ProductKeyMemory` of what it did. The tensors are not to be changed."""

    def read(self, slots: Tensor, weights: Tensor) -> None:
        """Tokens were read: slots, weights [B,T,H·k]."""
        ...

    def gated(self, gate: Tensor, place: int) -> None:
        """The gates [B,T] of the tokens that were read since the last call; the first of them stands at `place`."""
        ...

    def wrote(self, write: Write) -> None:
        """Tokens were written."""
        ...

    def copy(self) -> MemoryObserver:
        """The observer of a copy of the memory, which goes its own way from here."""
        ...


def shift(places: Places, count: int) -> Places:
    """The places without their first `count`."""
    rest = []
    for run in places:
        if count < len(run):
            rest.append(run[count:])
        count = max(0, count - len(run))
    return tuple(rest)


def first(places: Places, count: int) -> Places:
    """The first `count` of the places."""
    kept = []
    for run in places:
        if count > 0:
            kept.append(run[:count])
        count -= len(run)
    return tuple(kept)


def runs(places: Iterable[int]) -> Places:
    """Places one by one → in runs."""
    found: list[range] = []
    for place in places:
        if found and place == found[-1].stop:
            found[-1] = range(found[-1].start, place + 1)
        else:
            found.append(range(place, place + 1))
    return tuple(found)


def listed(places: Places) -> list[int]:
    """Every place, one by one."""
    return [place for run in places for place in run]
