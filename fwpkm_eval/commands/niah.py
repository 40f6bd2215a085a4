"""``fwpkm-eval niah``: needles in a haystack, read once or several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError
from fwpkm_eval.sizes import format_size, parse_write_chunk

if TYPE_CHECKING:
    from fwpkm_eval.runs.rows import Row
    from fwpkm_eval.tasks.niah import NiahSettings


def _write_chunks(text: str) -> tuple[int | str, ...]:
    return tuple(dict.fromkeys(parse_write_chunk(part.strip()) for part in text.split(",")))


def _depths(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"depths {text!r} are not numbers from 0 to 1, such as 0.1,0.5,0.9") from None


@click.command(name="niah")
@sources.models
@options.scale
@click.option("--lengths", type=options.SIZES, default="4K", show_default=True, help="Haystack lengths in tokens.")
@click.option(
    "--passes",
    type=options.PASSES,
    default="1,2,4",
    show_default=True,
    help="Readings before the question.",
)
@click.option("--samples", type=click.IntRange(1), default=20, show_default=True, help="Haystacks per setting.")
@click.option(
    "--write-chunk",
    "write_chunks",
    type=options.Parsed("write chunks", _write_chunks),
    multiple=True,
    default=("haystack", "1024"),
    show_default=True,
    metavar="N|haystack",
    help="Write every N tokens, or once per reading; may be given more than once.",
)
@click.option("--needles", type=options.SIZES, default="5", show_default=True, help="Needles in a haystack.")
@click.option(
    "--protocol",
    "protocols",
    type=options.OneOf("protocol", ["open-book", "closed-book", "published"]),
    multiple=True,
    default=("open-book",),
    show_default=True,
    help="What is seen while answering; 'published' counts and writes as the public implementation does.",
)
@click.option(
    "--closed-book",
    is_flag=True,
    help="Ask with the question alone, too, as --protocol closed-book beside the other protocols does.",
)
@click.option(
    "--scope",
    type=options.OneOf("scope", ["sample", "stream"]),
    default="sample",
    show_default=True,
    help="Where the memory starts anew: with each sample, or never.",
)
@options.haystack
@click.option(
    "--depths",
    type=options.Parsed("depths", _depths, lists=True),
    default=None,
    help="Where the needle asked for lies (0 start, 1 end), by turns. [default: drawn]",
)
@click.option("--key-length", type=click.IntRange(1, 32), default=4, show_default=True, help="Characters of a key.")
@click.option("--value-length", type=click.IntRange(1, 32), default=6, show_default=True, help="Digits of a number.")
@options.measuring
def command(
    models: Sequence[sources.Chosen] | None,
    scale: str,
    lengths: tuple[int, ...],
    passes: tuple[int, ...],
    samples: int,
    write_chunks: Sequence[tuple[int | str, ...]],
    needles: tuple[int, ...],
    protocols: Sequence[str],
    closed_book: bool,
    scope: str,
    haystack: str | None,
    depths: tuple[float, ...] | None,
    key_length: int,
    value_length: int,
    given: options.Given,
) -> None:
    """Hide numbers in text, have a model read it, and ask for one.

    "passes" readings, each written into the fast weights, come before the question. Then the model sees
    haystack and question (open book) or the question alone (closed book), and nothing is written while it
    answers.

    A run with --out that was stopped goes on where it was; more lengths, models, needles or ways of writing, named
    beside those that are there, are added to it.
    """
    from fwpkm_eval.api import tokenizer_of
    from fwpkm_eval.commands.measure import conclude, models_config, run_cells
    from fwpkm_eval.data import default_haystack, load_set
    from fwpkm_eval.runs.jobs import TextSource, biggest_first, guess_job, niah_jobs
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.tasks.niah import NiahSettings, check_fit, repeats_note

    settings = NiahSettings(
        lengths=lengths,
        passes=passes,
        write_chunks=tuple(dict.fromkeys(chunk for chunks in write_chunks for chunk in chunks)),
        needles=needles,
        protocols=tuple(dict.fromkeys([*protocols, *(["closed-book"] if closed_book else [])])),
        samples=samples,
        scope=scope,
        seed=given.seed,
        depths=depths,
        key_length=key_length,
        value_length=value_length,
    )
    found = sources.find_sources(models, scale, given)
    haystack = haystack or default_haystack(given.data)
    config = models_config("niah", scale, found, given, haystack=haystack, **asdict(settings))
    check_free(given.out, config)
    text = TextSource(given.data, load_set(given.data, haystack, "test"))
    for source in found:
        check_fit(text.text_set, settings, tokenizer_of(source.config))
    notes = [repeats_note(text.text_set, settings, tokenizer_of(source.config)) for source in found]
    for note in dict.fromkeys(note for note in notes if note is not None):
        click.echo(f"note: {note}", err=True)
    jobs = [job for source in found for job in niah_jobs(source, text, settings)]
    measured = run_cells(
        [*biggest_first(jobs), guess_job(text, settings)], given, config=config, models=found, texts=[text]
    )

    def show(rows: Sequence[Row]) -> None:
        _show(rows, [(source.name, source.weights_hash) for source in found], settings, haystack)
        if measured.peak_memory_bytes:
            click.echo(f"peak memory of a process: {measured.peak_memory_bytes / 2**30:.2f} GiB")

    conclude(measured, given, show)


def _show(rows: Sequence[Row], models: Sequence[tuple[str, str]], settings: NiahSettings, haystack: str) -> None:
    """A line for each way of reading: exact match with its interval and right digits by number of passes, and speed.

    All in the order in which it was asked for; ``models``: name and weights.
    """
    from fwpkm_eval.commands.measure import counted, names_of, print_table

    lines: dict[tuple[str, ...], dict[tuple[str, int], Row]] = {}
    chunks, passes = list(map(str, settings.write_chunks)), settings.passes

    def place(row: Row) -> tuple[Any, ...]:
        chunk = chunks.index(row.write_chunk) if row.write_chunk in chunks else len(chunks)
        model = models.index((row.model, row.weights_hash))
        return model, row.length, row.needles, chunk, settings.protocols.index(row.protocol)

    measured_ones = [row for row in rows if (row.model, row.weights_hash) in models and row.depth is None]
    names = names_of(measured_ones)
    for row in sorted((row for row in measured_ones if row.passes is not None), key=place):
        size = format_size(row.length or 0)
        name = names[row.model, row.weights_hash]
        reading: tuple[str, ...] = (name, size, str(row.needles), row.write_chunk, row.protocol)
        lines.setdefault(reading, {})[row.metric, row.passes or 0] = row
    table = []
    for reading, measured in lines.items():
        cost = next(iter(measured.values()))
        exact = [_with_interval(measured.get(("exact_match", count))) for count in passes]
        digits = " ".join(_percent(measured.get(("digit_accuracy", count))) for count in passes)
        speed = f"{(cost.tokens or 0) / cost.seconds:,.0f}" if cost.seconds else "–"
        table.append((*reading, str(cost.n), *exact, digits, speed))
    header = (
        *("model", "length", "needles", "written", "protocol", "n"),
        *(f"{'exact match, ' if count == passes[0] else ''}{counted(count, 'reading')}" for count in passes),
        *("right digits", "tokens/s"),
    )
    print_table(header, table, right=("length", "needles", *header[5:]))
    if table:
        click.echo(
            f"exact match with its 95% interval over n haystacks of {haystack}; right digits after as many readings"
        )


def _with_interval(row: Row | None) -> str:
    shown = _percent(row).strip()
    if row is None or row.ci_low is None or row.ci_high is None:
        return shown
    return f"{shown} ({100 * row.ci_low:.0f}–{100 * row.ci_high:.0f}%)"


def _percent(row: Row | None) -> str:
    return f"{row.value:>4.0%}" if row is not None and row.value is not None else "   –"
