"""``fwpkm-eval longbench``: how well right answers to questions about long texts are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError


@click.command(name="longbench")
@sources.models
@options.scale
@click.option(
    "--sets", default=None, metavar="NAMES", help="Sets of questions. [default: the published ones there are]"
)
@click.option(
    "--passes",
    type=options.PASSES,
    default="0,1,2",
    show_default=True,
    help="Readings of the text before the question.",
)
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
    "protocols",
    type=click.Choice(["open-book", "closed-book", "published"]),
    multiple=True,
    default=("open-book",),
    show_default=True,
    help="What is seen while answering; may be given more than once.",
)
@click.option("--questions", type=click.IntRange(1), default=None, help="At most so many of each set. [default: all]")
@click.option("--max-context", type=options.SIZE, default=None, help="Cut longer texts in their middle. [default: no]")
@options.measuring
def command(
    models: Sequence[str | Path] | None,
    scale: str,
    sets: str | None,
    passes: tuple[int, ...],
    write_chunk: int | str,
    protocols: Sequence[str],
    questions: int | None,
    max_context: int | None,
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
    """Read a long text "passes" times, then text and question, and score the right answer's tokens.

    --data is a folder with <set>.jsonl, as in LongBench: context, input and answers in each line.
    """
    from fwpkm_eval.commands.measure import counted, end, print_rows, print_tables, report_on, run_cells
    from fwpkm_eval.data.questions import PUBLISHED, load_questions, question_sets
    from fwpkm_eval.reporting.tables_longbench import longbench_tables
    from fwpkm_eval.runs.jobs import TextSource, biggest_first
    from fwpkm_eval.runs.measures import longbench_job
    from fwpkm_eval.runs.rows import rows_to_frame
    from fwpkm_eval.tasks.longbench import LongBenchSettings

    if 0 in passes and set(protocols) != {"open-book"}:
        raise UserError("passes 0 goes with protocol open-book alone: the others need at least 1 reading")
    settings = LongBenchSettings(
        passes=passes,
        write_chunk=write_chunk,
        protocols=tuple(dict.fromkeys(protocols)),
        questions=questions,
        max_context=max_context,
        seed=seed,
    )
    there = question_sets(data)
    names = [name.strip() for name in sets.split(",")] if sets else [n for n in PUBLISHED if n in there] or there
    loaded = [load_questions(data, name) for name in dict.fromkeys(names)]
    asked = {one.name: len(one.questions[: settings.questions]) for one in loaded}
    texts = [TextSource(data, one) for one in loaded]
    found = sources.find_sources(models, scale, device, dtype)
    measured = run_cells(
        biggest_first(longbench_job(source, text, settings) for text in texts for source in found),
        out=out,
        config={
            "command": "longbench",
            "scale": scale,
            "models": [source.name for source in found],
            "data": data,
            "sets": [text.text_set.name for text in texts],
            "device": device,
            "dtype": dtype,
            **asdict(settings),
        },
        models=found,
        texts=texts,
        seed=seed,
        workers=workers,
        quiet=quiet,
    )
    if as_json:
        print_rows(measured.rows)
    else:
        print_tables(longbench_tables(rows_to_frame(measured.rows)), details=True)
        for name, number in asked.items():
            click.echo(f"{name}: {counted(number, 'question')}")
    report_on(out, measured, as_json)
    end(measured)
