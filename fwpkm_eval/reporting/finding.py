"""One statement of a summary, and the verdict it comes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["found", "not found", "worse", "of these weights", "unclear", "limit", "note"]


@dataclass(frozen=True)
class Finding:
    """One statement. ``verdict`` says whether what one would hope for was found, was not, or the opposite was (worse).

    ``of these weights`` is what holds of one training, of which nobody knows how another would do. A ``limit`` is where
    it ends, and a ``note`` says something that was not hoped for either way.
    """

    verdict: Verdict
    text: str
