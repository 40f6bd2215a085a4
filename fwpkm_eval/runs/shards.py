"""A run cut into parts for machines that share a folder, or none: ``--shard 2/8`` measures the second of eight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.runs.engine import Job


@dataclass(frozen=True)
class Shard:
    """Part ``number`` (from 1) of ``of``. A cell's part follows from its key: every machine cuts alike."""

    number: int = 1
    of: int = 1

    def select(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs of this part, in their order."""
        return [job for job in jobs if int(job.cell.key, 16) % self.of == self.number - 1]


def parse_shard(text: str) -> Shard:
    """``"2/8"`` -> the second of eight parts. Raises UserError for anything else."""
    number, slash, of = text.partition("/")
    plain = all(part.isascii() and part.isdigit() and len(part) < 7 for part in (number, of))
    if not slash or not plain or not 1 <= int(number) <= int(of):
        raise UserError(f"shard {text!r} is no part of a run; parts are named 1/4, 2/4, 3/4, 4/4")
    return Shard(int(number), int(of))
