"""Inputs of a FwPKM scan at any size and setting, drawn by hypothesis or written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from fwpkm_eval.kernels.fwpkm import fwpkm_scan
from fwpkm_eval.kernels.types import Addressing, MemoryRule, ScanResult, Score

INPUTS = ("query", "target", "gate", "keys", "values")


@dataclass(frozen=True)
class Case:
    """Sizes and settings; half is dk/2. The numbers themselves come from `seed`."""

    batch: int = 1
    tokens: int = 24
    heads: int = 1
    subkeys: int = 8
    half: int = 3
    width: int = 5
    topk: int = 3
    chunk: int = 7
    score: Score = "idw"
    lookahead: int = 1
    addressing: Addressing = "entropy"
    gated: bool = True
    learning_rate: float = 1.0
    addressing_weight: float = 1.0
    seed: int = 0

    @property
    def rule(self) -> MemoryRule:
        return MemoryRule(
            self.topk, self.score, self.lookahead, self.addressing, self.learning_rate, self.addressing_weight
        )

    def inputs(self, dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> dict[str, Any]:
        """query, target, gate (None if not gated), keys and values, by name.

        Queries come in groups that lie near each other and near keys, so that slots are read by many tokens.
        """
        draw = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        keys = normal(self.heads, 2, self.subkeys, self.half) * 0.7
        centres = normal(4, self.heads * 2 * self.half)
        which = torch.randint(4, (self.batch, self.tokens), generator=draw)
        found = {
            "query": centres[which] + 0.5 * normal(self.batch, self.tokens, self.heads * 2 * self.half),
            "target": normal(self.batch, self.tokens, self.width),
            "gate": torch.rand(self.batch, self.tokens, generator=draw, dtype=torch.float64) if self.gated else None,
            "keys": keys,
            "values": normal(self.subkeys**2, self.width) * self.width**-0.5,
        }
        return {name: None if x is None else x.to(dtype).requires_grad_(requires_grad) for name, x in found.items()}

    def scan(self, inputs: dict[str, Any], **changes: Any) -> ScanResult:
        return fwpkm_scan(**{**inputs, **vars(self.rule), "chunk_size": self.chunk, **changes})


# Awkward lengths, dv 60, k = 1 and k = S, heads, batch 3, ragged chunks, chunks of no more tokens than the
# lookahead, lookahead 0 to 3.
WRITTEN_OUT = [
    Case(tokens=63, width=60, chunk=16),
    Case(tokens=100, heads=4, chunk=32, score="dot", topk=4),
    Case(tokens=1000, width=60, chunk=250, subkeys=16, topk=8, lookahead=2),
    Case(topk=1),
    Case(topk=1, score="dot", addressing="none"),
    Case(topk=8, subkeys=8, heads=2),
    Case(subkeys=1, topk=1, tokens=5, chunk=2),
    Case(batch=3, lookahead=3, gated=False, tokens=20, chunk=9),
    Case(batch=3, heads=2, addressing="none", score="dot", lookahead=2),
    Case(batch=2, addressing="none", gated=False, heads=4, topk=2),
    Case(tokens=9, chunk=2, lookahead=2),
    Case(tokens=9, chunk=2, lookahead=3, addressing="none"),
    Case(tokens=8, chunk=7, lookahead=1, addressing="none"),
    Case(tokens=10, chunk=1, lookahead=0),
    Case(tokens=1, chunk=512, lookahead=0, score="dot"),
    Case(tokens=30, chunk=10, lookahead=0, learning_rate=0.3, addressing_weight=2.5),
    Case(tokens=30, chunk=10, addressing="none", learning_rate=0.3),
]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any sizes and settings that fit, of at most about six chunks."""
    subkeys = draw(st.sampled_from([1, 2, 5, 8, 13]))
    tokens = draw(st.sampled_from([1, 2, 17, 33, 63, 100]))
    shortest = -(-tokens // 6)
    return Case(
        batch=draw(st.sampled_from([1, 2, 3])),
        tokens=tokens,
        heads=draw(st.sampled_from([1, 2, 4])),
        subkeys=subkeys,
        half=draw(st.sampled_from([1, 2, 3, 8])),
        width=draw(st.sampled_from([1, 4, 60])),
        topk=draw(st.sampled_from(sorted({1, min(3, subkeys), subkeys}))),
        chunk=draw(st.integers(shortest, tokens + 3)),
        score=draw(st.sampled_from(["idw", "dot"])),
        lookahead=draw(st.integers(0, 3)),
        addressing=draw(st.sampled_from(["entropy", "none"])),
        gated=draw(st.booleans()),
        learning_rate=draw(st.sampled_from([1.0, 0.25])),
        addressing_weight=draw(st.sampled_from([1.0, 0.1])),
        seed=draw(st.integers(0, 2**16)),
    )
