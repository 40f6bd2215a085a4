"""``fwpkm-eval trace``: which slots answered each digit of a needle, and what was last written there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.tasks.trace_types import Trace


def _samples(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 8 for part in parts):
        raise UserError(f"samples {text!r} are not numbers from 0 on, such as 0,1,2")
    return tuple(dict.fromkeys(int(part) for part in parts))


@click.command(name="trace")
@sources.models
@options.scale
@click.option("--length", type=options.SIZE, default="4K", show_default=True, help="Haystack length in tokens.")
@click.option("--needles", type=options.SIZE, default="5", show_default=True, help="Needles in the haystack.")
@click.option("--passes", type=click.IntRange(0), default=2, show_default=True, help="Readings before the question.")
@click.option(
    "--write-chunk",
    type=options.WRITE_CHUNK,
    default="haystack",
    show_default=True,
    metavar="N|haystack",
    help="Write every N tokens, or once per reading.",
)
@click.option(
    "--protocol",
    type=click.Choice(["open-book", "closed-book"]),
    default="open-book",
    show_default=True,
    help="What is seen while answering.",
)
@click.option(
    "--sample",
    "samples",
    type=options.Parsed("samples", _samples),
    default="0",
    show_default=True,
    metavar="I[,I…]",
    help="Which samples of the seed, by number: those that niah asks for.",
)
@click.option(
    "--haystack", default=None, metavar="SET", help="The set that haystacks are cut from. [default: by --data]"
)
@click.option("--pairs", type=click.IntRange(1), default=3, show_default=True, help="Pairs to keep for each slot.")
@click.option("--slots", type=click.IntRange(1), default=None, help="Slots to show for each layer. [default: all read]")
@options.measuring
def command(
    models: Sequence[str | Path] | None,
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
    data: str,
    seed: int,
    device: str,
    dtype: str,
    out: Path | None,
    engine: str,
    workers: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Ask for a needle, and show for every digit which memory slots were read and what was last written there.

    A slot is marked HIT where its last write holds the true next digit. With --out the traces are kept as
    trace/*.json, and stand in the report.
    """
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.commands.measure import end, report_on, run_cells
    from fwpkm_eval.commands.trace_view import show_trace
    from fwpkm_eval.data import default_haystack, load_set
    from fwpkm_eval.runs.jobs import TextSource, trace_job
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.tasks.niah import check_fit
    from fwpkm_eval.tasks.trace import TraceSettings
    from fwpkm_eval.tasks.trace_types import Trace

    settings = TraceSettings(length, needles, passes, write_chunk, protocol, samples, seed, pairs)
    found = [
        source
        for source in sources.find_sources(models, scale, device, dtype)
        if models is not None or source.config.spec.layers("fwpkm")
    ]
    for source in found:
        if not source.config.spec.layers("fwpkm"):
            raise UserError(f"{source.name} has no FwPKM and so no slots to trace: name a model such as gdn+swa:fwpkm")
    haystack = haystack or default_haystack(data)
    config = {
        "command": "trace",
        "scale": scale,
        "models": [source.name for source in found],
        "data": data,
        "haystack": haystack,
        "device": device,
        "dtype": dtype,
        **asdict(settings),
    }
    check_free(out, config)
    text = TextSource(data, load_set(data, haystack, "test"))
    for source in found:
        check_fit(text.text_set, settings.niah(), tokenizer_of(source.config))
    measured = run_cells(
        [trace_job(source, text, settings) for source in found],
        out=out,
        config=config,
        models=found,
        texts=[text],
        seed=seed,
        workers=workers,
        quiet=quiet,
    )
    traces = [Trace.from_json(trace) for payload in measured.payloads for trace in payload.get("traces", [])]
    if as_json:
        click.echo(json.dumps(_as_json(traces, measured.rows), indent=1))
    else:
        for trace in traces:
            show_trace(trace, slots)
        for row in measured.rows:
            click.echo(f"{row.model}  {row.metric.replace('_', ' ')}  {row.value:.1%}  (n = {row.n})")
    report_on(out, measured, as_json)
    end(measured)


def _as_json(traces: Sequence[Trace], rows: Sequence[Any]) -> dict[str, Any]:
    return {"traces": [trace.to_json() for trace in traces], "rows": [row.to_json() for row in rows]}
