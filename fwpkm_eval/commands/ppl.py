"""``fwpkm-eval ppl``: perplexity on long text, with and without memory writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

from fwpkm_eval.commands import options, reading, sources

if TYPE_CHECKING:
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.runs.jobs import ModelSource, TextSource
    from fwpkm_eval.runs.rows import Row
    from fwpkm_eval.tasks.perplexity import PerplexitySettings


@click.command(name="ppl")
@sources.models
@options.scale
@options.sets
@options.tokens_or("all of a set, at most 8M")
@click.option("--segment", type=options.SIZE, default="4K", show_default=True, help="Tokens of a sequence.")
@click.option(
    "--scope",
    type=options.OneOf("scope", ["stream", "document", "segment"]),
    default="stream",
    show_default=True,
    help="Where the memory starts anew: never, with each document, or with each segment.",
)
@click.option(
    "--frozen",
    type=options.OneOf("choice", ["also", "only", "no"]),
    default="also",
    show_default=True,
    help="Measure models with fast weights without writes: what the writes are worth.",
)
@click.option(
    "--write-chunk",
    type=options.SIZE,
    default=None,
    help="Write every so many tokens. [default: the model's own chunk]",
)
@options.measuring
def command(
    models: Sequence[sources.Chosen] | None,
    scale: str,
    sets: tuple[str, ...] | None,
    tokens: int | None,
    segment: int,
    scope: str,
    frozen: str,
    write_chunk: int | None,
    given: options.Given,
) -> None:
    """Score every token of text sets once, writing to the fast weights while reading, and without writing.

    A set's documents are read in order, in segments. Attention and recurrent state are fresh in each
    segment, the fast weights go on as far as --scope says. "With match model" mixes in what followed the longest
    context read before, as data compressors predict: what a memory saves there is more than copying.
    """
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    settings = PerplexitySettings(
        tokens=tokens or PUBLISHED_BUDGET, segment=segment, scope=scope, write_chunk=write_chunk, seed=given.seed
    )
    reading.measure_on_texts(
        "ppl",
        reading.Common(models, scale, sets, given),
        {**asdict(settings), "frozen": frozen},
        lambda source, text: _jobs(source, text, settings, frozen),
        _show,
    )


PUBLISHED_BUDGET = 8 * 2**20
"""Tokens of each set in the published evaluation."""


def _jobs(source: ModelSource, text: TextSource, settings: PerplexitySettings, frozen: str) -> list[Job]:
    from fwpkm_eval.runs.jobs import perplexity_job

    jobs = []
    if frozen != "only" or not source.has_fast_weights:
        jobs.append(perplexity_job(source, text, settings))
    if frozen != "no" and source.has_fast_weights:
        jobs.append(perplexity_job(source, text, replace(settings, frozen=True)))
    return jobs


SHOWN = {
    "bits per byte": "bits_per_byte",
    "with match model": "bits_per_byte_with_match_model",
    "nats per token": "nats_per_token",
    "perplexity": "perplexity",
}


def _show(rows: Sequence[Row]) -> None:
    from fwpkm_eval.commands.measure import names_of, print_table

    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    names = names_of(rows)
    for row in rows:
        if row.metric != "bits_per_byte_at_position":
            lines.setdefault((row.dataset, names[row.model, row.weights_hash], row.arm), {})[row.metric] = row
    table = []
    for (dataset, model, arm), measured in sorted(lines.items()):
        cost = next(iter(measured.values()))
        speed = f"{(cost.tokens or 0) / cost.seconds:,.0f}" if cost.seconds else "–"
        numbers = [_number(measured.get(metric)) for metric in SHOWN.values()]
        documents = measured.get("documents_read")
        read = "–" if documents is None else f"{documents.value:.0f} of {documents.n}"
        table.append((dataset, model, arm or "–", *numbers, f"{cost.tokens:,}", read, speed))
    header = ("set", "model", "arm", *SHOWN, "tokens", "documents", "tokens/s")
    print_table(header, table, right=header[3:])


def _number(row: Row | None) -> str:
    return f"{row.value:.4f}" if row is not None and row.value is not None else "–"
