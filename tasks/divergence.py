"""Noticing that a memory diverges: when, and in which layer.

Published for dot-product scoring, and for the dense fast-weight MLP on long chunks (arXiv 2601.00671). What a memory is
to hold is normalised (unit standard deviation over features), so that fast weights far beyond that are lost, even where
the layer's own normalisation still hides it from the loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwpkm_eval.runs.rows import Row

EXPLODED = 1e4
"""A fast weight of this size has exploded: targets are of order 1, first values of order 0.1."""


@dataclass
class DivergenceWatch:
    """Looks at the fast weights now and then, and keeps after how many tokens each layer's were first seen broken.

    ``first``: tokens read by then (an upper bound: looks are a reading or a segment apart) → by layer.
    ``affected``: how many readings ended with that layer's fast weights broken; ``looks``: how many there were.
    """

    first: dict[int, int] = field(default_factory=dict)
    affected: dict[int, int] = field(default_factory=dict)
    looks: int = 0

    def look(self, state: Any, tokens: int) -> None:
        """``state``: after ``tokens`` tokens were read from the start of its memory. Reads every fast weight once."""
        import torch

        self.looks += 1
        memories = getattr(state, "fast_weights", {})
        peaks = [
            torch.stack([torch.stack(torch.aminmax(tensor.detach())).abs().max() for tensor in memory.values()]).max()
            for memory in memories.values()
        ]
        read = torch.stack(peaks).tolist() if peaks else []  # all at once: a GPU is waited for
        for layer, peak in zip(memories, read, strict=True):
            if not peak < EXPLODED:  # what is not a number is not below it, either
                self.first[layer] = min(self.first.get(layer, tokens), tokens)
                self.affected[layer] = self.affected.get(layer, 0) + 1

    def rows(self, common: dict[str, Any]) -> list[Row]:
        """For each layer that diverged ``diverged_after@LAYER``: tokens read when it was first seen; n: the looks that
        found it so."""
        from fwpkm_eval.runs.rows import Row

        return [
            Row(
                metric=f"diverged_after@{layer}",
                value=tokens,
                unit="tokens",
                n=self.affected[layer],
                **common,
            )
            for layer, tokens in sorted(self.first.items())
        ]
