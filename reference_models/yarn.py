"""YaRN (Peng et al., arXiv 2309.00071): rotary attention over sequences longer than those trained on.

With L the trained length, s = factor, and rᵢ = L·θᵢ/2π the turns that frequency θᵢ makes over L:

    θᵢ' = θᵢ·(γ(rᵢ) + (1 − γ(rᵢ))/s),   γ(r) = 0 below r = 1, 1 above r = 32, linear between,

and both q and k are scaled by 0.1·ln s + 1 on the rotated features, as is usual where only part of a head is rotated.
A window shorter than L never meets a distance that was not trained, so only full attention takes part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from fwpkm_eval.reference_models.config import ModelConfig

SLOWEST_KEPT, FASTEST_SCALED = 32.0, 1.0
"""Turns over the trained length: frequencies above the first stay, those below the second are divided by s."""

YARN_VERSION = 2
"""Part of the keys of cells whose models take it: raise it whenever who takes which factor changes."""


@dataclass(frozen=True)
class Yarn:
    """How far a sequence goes beyond the trained length, in tokens: `factor` times it, a power of two."""

    factor: int
    trained_length: int

    @property
    def magnitude(self) -> float:
        """What q and k are multiplied by."""
        return 0.1 * math.log(self.factor) + 1

    def frequencies(self, trained: Tensor) -> Tensor:
        """trained [n] in radians per token → the frequencies to use [n]."""
        turns = self.trained_length * trained / (2 * math.pi)
        kept = ((turns - FASTEST_SCALED) / (SLOWEST_KEPT - FASTEST_SCALED)).clamp(0, 1)
        return trained * (kept + (1 - kept) / self.factor)


def uses_yarn(config: ModelConfig) -> bool:
    """Whether YaRN can change what the model computes: its scale has a trained length, and it full attention."""
    return config.trained_length is not None and "fa" in config.layer_kinds


def yarn_for(config: ModelConfig, length: int) -> Yarn | None:
    """For sequences of `length` tokens: factor = length / trained length, the next power of two; None if not needed."""
    trained = config.trained_length
    if trained is None or not uses_yarn(config) or length <= trained:
        return None
    return Yarn(1 << math.ceil(math.log2(length / trained)), trained)
