"""What was found, as Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

from fwpkm_eval import __version__
from fwpkm_eval.reliability.damage import Verdict
from fwpkm_eval.reliability.kills import Kills
from fwpkm_eval.reliability.long_reading import LongReading
from fwpkm_eval.reliability.repetition import Repetition
from fwpkm_eval.sizes import format_size


@dataclass
class Findings:
    """All parts of a run of `fwpkm-eval soak`; None or empty: not run."""

    command: str
    kills: Kills | None = None
    verdicts: list[Verdict] = field(default_factory=list)
    repetition: Repetition | None = None
    long: list[LongReading] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, nothing differed and every damaged input ended as it should."""
        kills, repetition = self.kills, self.repetition
        return (
            (kills is None or kills.survived == kills.tried)
            and (repetition is None or not repetition.differing)
            and all(verdict.passed for verdict in self.verdicts)
        )


def as_markdown(found: Findings) -> str:
    """The table of results/reliability.md, and each damaged input with what was said of it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = f"fwpkm_eval {__version__}, Python {platform.python_version()}, {platform.machine()}, {cores} cores"
    lines = ["# Reliability", "", f"Made by `{found.command}` ({where}).", "", "| what | found |", "| --- | --- |"]
    if found.kills:
        kills = found.kills
        lines += [
            f"| kills survived / tried (SIGKILL at any moment, then run again) | {kills.survived} / {kills.tried} |",
            f"| of these, killed while cells were being measured or stored | {kills.killed} |",
            f"| rows lost, rows changed | {kills.lost}, {kills.added} |",
        ]
    if found.verdicts:
        refused = [verdict for verdict in found.verdicts if verdict.case.expected == "refused"]
        repaired = [verdict for verdict in found.verdicts if verdict.case.expected == "repaired"]
        lines += [
            f"| damaged or hostile inputs refused in one line / tried | {_passed(refused)} / {len(refused)} |",
            f"| damaged results measured anew, same rows / tried | {_passed(repaired)} / {len(repaired)} |",
        ]
    if found.repetition:
        again = found.repetition
        lines += [
            f"| runs of one command (1 worker, 2, 2, killed and gone on with) that differ from the first in any of "
            f"{again.rows} rows | {again.differing} of {again.runs - 1} |",
            f"| the same work with 2 workers, times as fast as with 1 (start included) | "
            f"{again.seconds_one_worker / again.seconds_two_workers:.2f} |",
        ]
    lines += [
        f"| {format_size(one.length)}-token haystack, `{one.model}`, a write every {one.write_chunk}: peak memory of "
        f"its process, tokens/s | {one.peak_memory_bytes / 2**30:.2f} GiB, {one.tokens_per_second:,.0f} |"
        for one in found.long
    ]
    return "\n".join([*lines, "", *_failures(found), *_cases(found.verdicts)])


def _passed(verdicts: Sequence[Verdict]) -> int:
    return sum(verdict.passed for verdict in verdicts)


def _failures(found: Findings) -> list[str]:
    if not found.kills or not found.kills.failures:
        return []
    return ["## Kills not survived", "", *(f"- {line}" for line in found.kills.failures), ""]


def _cases(verdicts: Sequence[Verdict]) -> list[str]:
    if not verdicts:
        return []
    lines = ["## Damaged and hostile inputs", "", "| input | wanted | as wanted |", "| --- | --- | --- |"]
    lines += [f"| {v.case.name} | {v.case.expected} | {'yes' if v.passed else 'NO: ' + v.said} |" for v in verdicts]
    return [*lines, ""]
