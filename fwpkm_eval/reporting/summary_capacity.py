"""The words about capacity: the most needles held by memories of several sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fwpkm_eval.reporting import wording
from fwpkm_eval.reporting.finding import Finding
from fwpkm_eval.reporting.tables_capacity import Found, Way, capacity_results, usual_size

if TYPE_CHECKING:
    import pandas


def capacity_findings(frame: pandas.DataFrame) -> list[Finding]:
    """For each length and way of writing, after the most readings: needles held over slots, and over widths."""
    last: dict[tuple[int, str], tuple[Way, Found]] = {}
    for way, found in capacity_results(frame).items():
        last[way.length, way.write_chunk] = (way, found)  # in order of readings
    return [Finding("note", _sentence(way, found)) for way, found in last.values()]


def _sentence(way: Way, found: Found) -> str:
    usual = usual_size(found)
    slots = [
        f"{line.most_in_words} in {size.subkeys**2:,} slots"
        for size, line in found.items()
        if size.value_dim == usual.value_dim
    ]
    widths = [
        f"{line.most_in_words} at dv {size.value_dim}" for size, line in found.items() if size.subkeys == usual.subkeys
    ]
    apart = " (in brackets: the seeds apart)" if any(len(line.by_seed) > 1 for line in found.values()) else ""
    text = (
        f"Most needles held{apart} at {wording.size(way.length)}, closed book, {wording.writing(way.write_chunk)}, "
        f"{wording.readings(way.passes)}: {wording.listing(slots)} (dv {usual.value_dim})"
    )
    return f"{text}; in {usual.subkeys**2:,} slots {wording.listing(widths)}." if len(widths) > 1 else f"{text}."
