"""What one chunk of FwPKM needs and gives, and the operations that a sparse backend has to offer for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fwpkm_eval.kernels.types import MemoryRule


@dataclass(frozen=True)
class ChunkInputs:
    """A chunk's query [B,C,H·dk], target [B,C,dv], gate [B,C] or None, and what to do with them."""

    query: Tensor
    target: Tensor
    gate: Tensor | None
    rule: MemoryRule

    @property
    def written(self) -> int:
        """How many tokens of each row have a target: C − L."""
        return max(self.query.shape[1] - self.rule.lookahead, 0)


@dataclass(frozen=True)
class ChunkStep:
    """One chunk's forward pass.

    slots, weights [n,H·k]: its reads; memory_loss [B,written]; addressing_loss [] or None; touched: the slots it read,
    in any order, each at least once; saved: what this backend's gradient needs, if it was logged.
    """

    slots: Tensor
    weights: Tensor
    memory_loss: Tensor
    addressing_loss: Tensor | None
    touched: Tensor
    saved: Any


@dataclass(frozen=True)
class TouchedRows:
    """Gradient of the rows that any chunk read: slots [U] ascending, gradient [U,dv], updated from chunk to chunk.

    Slots at the end may be S² or more: rows of no slot, which nobody looks up.
    """

    slots: Tensor
    gradient: Tensor


@dataclass(frozen=True)
class ChunkGradient:
    """Where a chunk's gradients go: query [B,C,H·dk], target [B,C,dv] and gate [B,C] or None, all zero before."""

    query: Tensor
    target: Tensor
    gate: Tensor | None


class ChunkOps(Protocol):
    """A sparse backend: a module with these functions. Shapes as in `fwpkm_eval.kernels.types`, n = B·C."""

    def read_memory(
        self, query: Tensor, keys: Tensor, values: Tensor, rule: MemoryRule
    ) -> tuple[Tensor, Tensor, Tensor]:
        """query [B,C,H·dk] → (v̂ [B,C,dv], differentiable; slots, weights [n,H·k])."""
        ...

    def step_chunk(
        self,
        inputs: ChunkInputs,
        keys: Tensor,
        values: Tensor,
        output: Tensor | None = None,
        counted: Tensor | None = None,
        log: bool = False,
    ) -> ChunkStep:
        """Reads a chunk, then writes it into keys [H,2,S,d] and values [S²,dv] in place.

        output [B,C,dv]: where the reads go, if anywhere. counted [·,H·k]: slots of the reads to take N_i and the factor
        C/(C−L) from, instead of the chunk's own; only the published streaming rule needs it. log: keeps what the
        gradient needs, the rows that are overwritten among it.
        """
        ...

    def step_chunk_backward(
        self,
        inputs: ChunkInputs,
        step: ChunkStep,
        keys: Tensor,
        output: Tensor,
        d_output: Tensor | None,
        d_keys: Tensor,
        rows: TouchedRows,
        into: ChunkGradient,
    ) -> Tensor:
        """The exact gradient of `step_chunk`.

        keys are those before the chunk, output [B,C,dv] is what it read; d_output [B,C,dv] (None: zero) and
        d_keys [H,2,S,d] are the gradients of its reads and of the new keys, rows.gradient that of the new rows,
        and afterwards of the old ones. Returns the gradient of the old keys.
        """
        ...
