"""Runs of the command line in processes of their own, and whether two of them gave the same rows."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fwpkm_eval.errors import UserError
from fwpkm_eval.runs.rows import Row, read_rows_csv


def command_line(*arguments: str) -> list[str]:
    """``fwpkm-eval`` with these arguments, in this Python."""
    return [sys.executable, "-P", "-m", "fwpkm_eval.cli", *arguments]


@dataclass(frozen=True)
class Finished:
    """How a command ended: exit code, what it said on standard error, seconds."""

    code: int
    said: str
    seconds: float


def run_to_the_end(command: Sequence[str]) -> Finished:
    """Runs a command; whatever it prints on standard output is dropped."""
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    return Finished(done.returncode, done.stderr, time.perf_counter() - started)


def must_succeed(finished: Finished) -> Finished:
    """The same; UserError with its last line if it failed."""
    if finished.code:
        last = (finished.said.strip().splitlines() or ["it said nothing"])[-1]
        raise UserError(f"a run that was to succeed ended with exit code {finished.code}: {last}")
    return finished


def values_of(out: Path) -> Counter[Row]:
    """The rows of a run without what a repetition may change, the seconds; none if its file is not there or damaged."""
    try:
        rows = read_rows_csv(out / "rows.csv")
    except UserError:
        rows = []
    return Counter(dataclasses.replace(row, seconds=None) for row in rows)


def expected_of(out: Path) -> Counter[Row]:
    """The rows that other runs are held against; UserError if there are none, which every damaged run would equal."""
    rows = values_of(out)
    if not rows:
        raise UserError(f"the run in {out} left no rows that others could be held against")
    return rows


@dataclass(frozen=True)
class Difference:
    """Rows of a run that another lacks, and rows that the other has beyond them (a changed value is one of each)."""

    lost: int
    added: int

    @property
    def none(self) -> bool:
        return not self.lost and not self.added


def compare(expected: Counter[Row], found: Counter[Row]) -> Difference:
    """How two runs' rows differ, bit for bit; NaN equals NaN."""
    left, right = (Counter({repr(row): count for row, count in rows.items()}) for rows in (expected, found))
    return Difference(lost=(left - right).total(), added=(right - left).total())
