"""What a benchmark says at the terminal beside its tables: how well outputs agree, and how quiet the machine was."""

from __future__ import annotations

import os

from fwpkm_eval.bench.correctness import TOLERANCE
from fwpkm_eval.bench.run import BenchResult

ENOUGH_PROCESSOR = 0.8


def agreement(result: BenchResult) -> str:
    """What was measured, and how far each implementation is from the reference."""
    found = [f"{arm} {result.agreement.worst(arm):.1e}" for arm in result.agreement.errors]
    limits = ", ".join(f"{limit:.0e} for a {kind}" for kind, limit in TOLERANCE.items())
    return (
        f"{result.size}, float32, IDW scores, entropy addressing\n"
        f"Largest relative error against the reference: {', '.join(found)} (tolerance {limits})"
    )


def conditions(result: BenchResult) -> str:
    """Threads, load and time; and a warning if other programs held the processor."""
    before, after = result.load
    parts = [f"{result.threads} thread{'s' if result.threads > 1 else ''} of {os.cpu_count()} cores"]
    if before is not None and after is not None:
        parts.append(f"load average {before:.1f} before and {after:.1f} after")
    parts.append(f"{result.seconds:.0f} s in all")
    line = ", ".join(parts)
    lowest = min(measured.cpu_share for measured in result.measured.values())
    if lowest < ENOUGH_PROCESSOR:
        line += (
            f"\nOther programs held the processor: a measurement got {lowest:.0%} of a core. Do not trust these times"
            " and ratios; run again on a quiet machine, or at least with --threads 1."
        )
    return line
