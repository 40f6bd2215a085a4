"""Slot traces in the report: one section for each ``trace/*.json`` of the run's folder, for eyes and keyboard alike.

The section is plain HTML (details and tables), with what was in the text escaped; nothing in it runs.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import markupsafe

from fwpkm_eval.reporting import wording
from fwpkm_eval.tasks.trace_types import Trace, read_trace, sign, visible

if TYPE_CHECKING:
    from fwpkm_eval.tasks.trace_types import Digit, LayerRead

FOLDER = "trace"


def load_traces(out: Path) -> list[Trace]:
    """The traces of a run, by file name. UserError for a file that is not one."""
    return [read_trace(path) for path in sorted((out / FOLDER).glob("*.json"))]


def trace_section(traces: Sequence[Trace]) -> markupsafe.Markup:
    """The section of the report; nothing if there are no traces."""
    if not traces:
        return markupsafe.Markup("")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(visible=visible, sign=sign, percent=_percent)
    source = importlib.resources.files("fwpkm_eval.reporting").joinpath("templates/trace.html.j2")
    template = environment.from_string(source.read_text(encoding="utf-8"))
    # Escaped above, piece by piece.
    return markupsafe.Markup(template.render(traces=traces, asked=asked, top_hits=top_hits, found=found))


def asked(trace: Trace) -> str:
    """What was asked, in words."""
    written = "once each" if trace.write_chunk == "haystack" else f"every {trace.write_chunk} tokens"
    passes = f"{trace.passes} pass{'es' * (trace.passes != 1)}"
    return (
        f"{trace.needles} needles in {wording.size(trace.length)} of {trace.dataset}, {passes} written {written}, "
        f"{trace.protocol}, sample {trace.sample} of seed {trace.seed}; ID-{trace.key} at depth {trace.depth:.0%}"
    )


def top_hits(trace: Trace) -> str:
    """``9 of 12``: the reads, over digits and layers, whose heaviest slot is a HIT."""
    reads: list[LayerRead] = [layer for digit in trace.digits for layer in digit.layers]
    return f"{sum(layer.slots[0].hit for layer in reads)} of {len(reads)}"


def found(trace: Trace) -> str:
    """``5 of 6``: the digits that the vote of the slots names."""
    digits: Sequence[Digit] = trace.digits
    return f"{sum(digit.consensus == digit.expected for digit in digits)} of {len(digits)}"


def _percent(share: float) -> str:
    return f"{share:.0%}"
