"""A line about the run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """One line about the run: a name and its value in words."""

    name: str
    value: str
