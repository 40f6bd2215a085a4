"""A run killed at random moments and started again: are its rows those of a run that was never killed?"""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fwpkm_eval.reliability.runs import command_line, compare, expected_of, must_succeed, run_to_the_end, values_of

Command = Callable[[Path], list[str]]
"""The command that writes to a folder."""


@dataclass
class Kills:
    """What came of it.

    tried: runs started to be killed; killed: those that were still at work then (the others had ended); survived:
    second runs that succeeded with the very rows of the run never killed; lost, added: rows that differed, in all.
    """

    tried: int = 0
    killed: int = 0
    survived: int = 0
    lost: int = 0
    added: int = 0
    failures: list[str] = field(default_factory=list)


def kill_trials(
    command: Command, folder: Path, kills: int, seed: int, progress: Callable[[str], None] = lambda line: None
) -> Kills:
    """Kills (SIGKILL) the command ``kills`` times, each time in a fresh folder, and runs it there once more.

    The moments are spread over the time that the command takes, one at random in each of ``kills`` equal parts.
    """
    draw = random.Random(seed)
    reference = folder / "never-killed"
    seconds = must_succeed(run_to_the_end(command(reference))).seconds
    expected = expected_of(reference)
    result = Kills()
    for trial in range(kills):
        out = folder / f"killed-{trial}"
        after = seconds * (trial + draw.random()) / kills
        result.tried += 1
        result.killed += _kill_after(command(out), after)
        second = run_to_the_end(command(out))
        difference = compare(expected, values_of(out))
        result.lost += difference.lost
        result.added += difference.added
        if second.code == 0 and difference.none:
            result.survived += 1
        else:
            last = (second.said.strip().splitlines() or [""])[-1]
            result.failures.append(f"killed after {after:.2f} s: exit code {second.code}, {difference}, {last}")
        shutil.rmtree(out, ignore_errors=True)
        progress(f"kills survived: {result.survived} of {result.tried}")
    return result


def small_run(models: Sequence[str], tokens: int) -> Command:
    """A run of a few seconds: perplexity of the embedded sets."""

    def command(out: Path) -> list[str]:
        asked = ("ppl", "--models", ",".join(models), "--tokens", str(tokens), "--out", str(out), "--quiet")
        return command_line(*asked)

    return command


def _kill_after(command: Sequence[str], seconds: float) -> bool:
    """Starts the command and kills it; whether it was still running then."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False
