"""``fwpkm-eval trace``: which slots answered each digit of a needle, and what was last written there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.runs.rows import Row


@click.command(name="trace")
@sources.models
@options.scale
@click.option("--length", type=options.SIZE, default="4K", show_default=True, help="Haystack length in tokens.")
@click.option("--needles", type=options.SIZE, default="5", show_default=True, help="Needles in the haystack.")
@click.option("--passes", type=click.IntRange(0), default=2, show_default=True, help="Readings before the question.")
@options.write_chunk
@click.option(
    "--protocol",
    type=options.OneOf("protocol", ["open-book", "closed-book"]),
    default="open-book",
    show_default=True,
    help="What is seen while answering.",
)
@click.option(
    "--sample",
    "samples",
    type=options.numbers("samples", "numbers from 0 on, such as 0,1,2", 7),
    default="0",
    show_default=True,
    metavar="I[,I…]",
    help="Which samples of the seed, by number: those that niah asks for.",
)
@options.haystack
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="Pairs to keep for each slot.")
@click.option("--slots", type=click.IntRange(1), default=None, help="Slots to show for each layer. [default: all read]")
@options.measuring
def command(
    models: Sequence[sources.Chosen] | None,
    scale: str,
    length: int,
    needles: int,
    passes: int,
    write_chunk: int | str,
    protocol: str,
    samples: tuple[int, ...],
    haystack: str | None,
    pairs: int,
    slots: int | None,
    given: options.Given,
) -> None:
    """Ask for a needle, and show for every digit which memory slots were read and what was last written there.

    A slot is marked HIT where its last write holds the true next digit, and HIT answer where that digit was written
    from the very needle that is asked for. With --out the traces are kept as trace/*.json, and stand in the report.
    """
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.commands.measure import conclude, models_config, run_cells
    from fwpkm_eval.commands.trace_view import show_trace
    from fwpkm_eval.data import default_haystack, load_set
    from fwpkm_eval.runs.jobs import TextSource, trace_job
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.tasks.niah import check_fit
    from fwpkm_eval.tasks.trace import TraceSettings
    from fwpkm_eval.tasks.trace_types import Trace

    settings = TraceSettings(length, needles, passes, write_chunk, protocol, samples, given.seed, pairs)
    found = [
        source
        for source in sources.find_sources(models, scale, given)
        if models is not None or source.config.spec.layers("fwpkm")
    ]
    for source in found:
        if not source.config.spec.layers("fwpkm"):
            raise UserError(f"{source.name} has no FwPKM and so no slots to trace: name a model such as gdn+swa:fwpkm")
    haystack = haystack or default_haystack(given.data)
    config = models_config("trace", scale, found, given, haystack=haystack, **asdict(settings))
    check_free(given.out, config)
    text = TextSource(given.data, load_set(given.data, haystack, "test"))
    for source in found:
        check_fit(text.text_set, settings.niah(), tokenizer_of(source.config))
    jobs = [trace_job(source, text, settings) for source in found]
    measured = run_cells(jobs, given, config=config, models=found, texts=[text])
    traces = [Trace.from_json(trace) for payload in measured.payloads for trace in payload.get("traces", [])]

    def show(rows: Sequence[Row]) -> None:
        for trace in traces:
            show_trace(trace, slots)
        for row in rows:
            click.echo(f"{row.model}  {row.metric.replace('_', ' ')}  {row.value:.1%}  (n = {row.n})")

    def show_json(rows: Sequence[Row]) -> None:
        both = {"traces": [trace.to_json() for trace in traces], "rows": [row.to_json() for row in rows]}
        click.echo(json.dumps(both, indent=1))

    conclude(measured, given, show, show_json)
