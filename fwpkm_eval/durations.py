"""Durations as people write them: ``90s``, ``20m``, ``1.5h``."""

from __future__ import annotations

import re

from fwpkm_eval.errors import UserError, shown

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``20m`` or ``1.5h``. Raises UserError for anything else."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?)([smh])", text.strip().lower(), re.ASCII)
    if match is None or float(match[1]) == 0:
        raise UserError(f"{shown(text)} is no duration; give one such as 90s, 20m or 1.5h")
    return float(match[1]) * _SECONDS[match[2]]
