"""The same command again, with other numbers of workers and after an interruption: bit for bit the same rows?"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fwpkm_eval.reliability.kills import Command
from fwpkm_eval.reliability.runs import compare, expected_of, must_succeed, run_to_the_end, values_of


@dataclass(frozen=True)
class Repetition:
    """How often the command was run, how many rows each run has, and in how many runs some row differed."""

    runs: int
    rows: int
    differing: int
    seconds_one_worker: float
    seconds_two_workers: float


def repeat(command: Command, folder: Path, progress: Callable[[str], None] = lambda line: None) -> Repetition:
    """Four runs: with one worker, with two, with two again, and one that was killed halfway and gone on with."""
    outs = [folder / name for name in ("one-worker", "two-workers", "again", "gone-on-with")]
    one = must_succeed(run_to_the_end([*command(outs[0]), "--workers", "1"])).seconds
    two = must_succeed(run_to_the_end([*command(outs[1]), "--workers", "2"])).seconds
    must_succeed(run_to_the_end([*command(outs[2]), "--workers", "2"]))
    process = subprocess.Popen(command(outs[3]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=two / 2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    must_succeed(run_to_the_end(command(outs[3])))
    expected = expected_of(outs[0])
    differing = sum(not compare(expected, values_of(out)).none for out in outs[1:])
    progress(f"repetition: {differing} of 3 further runs differ")
    return Repetition(len(outs), expected.total(), differing, one, two)
