"""What a training run is made of; the same for every model of a scale."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from fwpkm_eval.errors import UserError, unknown


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    A step reads two rows of `tokens` tokens. The first goes on through a document; the second, with probability
    needle_share, holds needles and asks for them, and else goes on through another document. Both write into one
    memory, whose values return to their start with each new first document (after `document_pieces` rows at most).
    loss = mean over all tokens + answer_weight · mean over the answers' digits.

    chunks: sizes in tokens of a memory write, drawn per step.
    """

    steps: int = 2400
    tokens: int = 1024
    learning_rate: float = 2e-3
    final_rate: float = 0.1
    warmup: int = 100
    weight_decay: float = 0.1
    clip: float = 1.0
    answer_weight: float = 2.0
    document_pieces: int = 16
    needle_share: float = 0.35
    dense_share: float = 0.5
    chunks: tuple[int, ...] = (64, 128, 256)
    sets: tuple[str, ...] = ("source", "docs")
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "document_pieces"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.chunks or min(self.chunks) < 1:
            raise UserError(f"chunks is {self.chunks}; it must hold sizes of at least 1 token")
        if not self.sets:
            raise UserError("sets is empty; it must name at least one set of texts")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"learning_rate is {self.learning_rate}; it must be a number above 0")
        for name in ("needle_share", "dense_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Recipe:
        settings: Any = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        return Recipe(**settings)


RECIPES: dict[str, Recipe] = {"micro": Recipe()}


def recipe_for(scale: str) -> Recipe:
    """The recipe of a scale. Raises UserError for a scale that has none."""
    if scale not in RECIPES:
        raise unknown("scale with a training recipe", scale, list(RECIPES))
    return RECIPES[scale]
