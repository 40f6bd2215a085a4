"""Results and settings of the memory operations.

Shapes used in this package: B batch, T tokens, C chunk, H heads, S sub-keys per half (N = S² slots), k top-k,
dk key width, dv value width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from fwpkm_eval.errors import unknown
from fwpkm_eval.kernels.arguments import check_finite, check_whole

Score = Literal["idw", "dot"]
Addressing = Literal["entropy", "none"]
TargetRule = Literal["mean", "next"]

IDW_EPSILON = 1e-3
"""ε of the inverse-distance score −log(ε + ‖q − K‖²)."""
ENTROPY_EPSILON = 1e-8
"""Keeps log p̄ finite for sub-keys that no token selected."""


@dataclass(frozen=True)
class MemoryRule:
    """How a FwPKM reads and writes; everything that is not a tensor.

    topk slots per head and token; score of a sub-key; lookahead L tokens; addressing loss ("entropy", or "none": the
    no-entropy ablation, where the memorisation loss moves the keys); learning_rate η and addressing_weight λ.
    """

    topk: int = 8
    score: Score = "idw"
    lookahead: int = 1
    addressing: Addressing = "entropy"
    learning_rate: float = 1.0
    addressing_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.score not in get_args(Score):
            raise unknown("score", str(self.score), list(get_args(Score)))
        if self.addressing not in get_args(Addressing):
            raise unknown("addressing", str(self.addressing), list(get_args(Addressing)))
        check_whole("topk", self.topk, 1)
        check_whole("lookahead", self.lookahead, 0, "tokens")
        for name in ("learning_rate", "addressing_weight"):
            check_finite(name, getattr(self, name))
        # Kernels are compiled for Python's own numbers, not for NumPy's.
        kinds = {"topk": int, "lookahead": int, "learning_rate": float, "addressing_weight": float}
        for name, kind in kinds.items():
            object.__setattr__(self, name, kind(getattr(self, name)))


@dataclass(frozen=True)
class ScanResult:
    """What `fwpkm_scan` returns.

    output [B,T,dv]: the reads v̂. keys [H,2,S,dk/2], values [S²,dv]: the fast weights after the last chunk.
    indices [B,T,H,k] int64: slots i·S + j. weights [B,T,H,k]: softmax over all H·k of a token.
    memory_loss [B, T − L per chunk]: g·mean over features of (v̂ − y)², detached.
    addressing_loss []: the addressing loss, mean over chunks, detached; None when addressing is "none".
    """

    output: Tensor
    keys: Tensor
    values: Tensor
    indices: Tensor
    weights: Tensor
    memory_loss: Tensor
    addressing_loss: Tensor | None


@dataclass(frozen=True)
class DenseScanResult:
    """What `fwmlp_scan` and `lact_scan` return.

    output [B,T,out]; weights after the last chunk; memory_loss [B, T − L per chunk], detached.
    """

    output: Tensor
    weights: dict[str, Tensor]
    memory_loss: Tensor
