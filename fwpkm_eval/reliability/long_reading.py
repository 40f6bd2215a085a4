"""A haystack of a million tokens: does it end, and in how much memory?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fwpkm_eval.reliability.runs import command_line, must_succeed, run_to_the_end
from fwpkm_eval.runs.execute import GUESS
from fwpkm_eval.runs.rows import read_rows_csv


@dataclass(frozen=True)
class LongReading:
    """One model's reading: tokens of the haystack, the most memory its process held, tokens per second, exact match."""

    model: str
    length: int
    write_chunk: str
    peak_memory_bytes: int
    tokens_per_second: float
    exact_match: float


def read_long(models: tuple[str, ...], length: int, folder: Path) -> list[LongReading]:
    """One sample each, one pass, a write every 1,024 tokens, open book."""
    command = command_line(
        *("niah", "--models", ",".join(models), "--lengths", str(length), "--passes", "1", "--samples", "1"),
        *("--write-chunk", "1024", "--out", str(folder)),
    )
    must_succeed(run_to_the_end(command))
    peaks = {}
    for path in (folder / "cells").glob("*.json"):
        cell = json.loads(path.read_text(encoding="utf-8"))
        if cell["settings"]["model"] == GUESS:
            continue
        peaks[cell["settings"]["model"]] = int(cell.get("peak_memory_bytes") or 0)
    found = []
    for row in read_rows_csv(folder / "rows.csv"):
        if row.model in peaks and row.metric == "exact_match" and row.depth is None:
            speed = (row.tokens or 0) / row.seconds if row.seconds else 0.0
            exact = row.value or 0.0
            found.append(LongReading(row.model, length, row.write_chunk, peaks[row.model], speed, exact))
    return found
