"""One statement of a summary, and the verdict it comes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["found", "not found", "unclear", "limit", "note"]


@dataclass(frozen=True)
class Finding:
    """One statement. ``verdict`` says whether what one would hope for was found.

    A ``limit`` is where it ends, and a ``note`` says something that was not hoped for either way.
    """

    verdict: Verdict
    text: str
