"""``fwpkm-eval longbench``: how well right answers to questions about long texts are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.runs.rows import Row


@click.command(name="longbench")
@sources.models
@options.scale
@click.option(
    "--sets",
    "--set",
    type=options.NAMES,
    default=None,
    metavar="NAMES",
    help="Sets of questions. [default: the published ones there are]",
)
@click.option(
    "--passes",
    type=options.PASSES,
    default="0,1,2",
    show_default=True,
    help="Readings of the text before the question.",
)
@options.write_chunk
@click.option(
    "--protocol",
    "protocols",
    type=options.OneOf("protocol", ["open-book", "closed-book", "published"]),
    multiple=True,
    default=("open-book",),
    show_default=True,
    help="What is seen while answering; may be given more than once.",
)
@click.option("--questions", type=click.IntRange(1), default=None, help="At most so many of each set. [default: all]")
@click.option("--max-context", type=options.SIZE, default=None, help="Cut longer texts in their middle. [default: no]")
@options.measuring
def command(
    models: Sequence[sources.Chosen] | None,
    scale: str,
    sets: tuple[str, ...] | None,
    passes: tuple[int, ...],
    write_chunk: int | str,
    protocols: Sequence[str],
    questions: int | None,
    max_context: int | None,
    given: options.Given,
) -> None:
    """Read a long text "passes" times, then text and question, and score the right answer's tokens.

    --data is here a folder with <set>.jsonl, as in LongBench: context, input and answers in each line; or hub, after
    data prepare --data hub --set 2wikimqa (or another of LongBench). There is none in the embedded text.
    """
    from fwpkm_eval.commands.measure import conclude, counted, models_config, run_cells, shown_as
    from fwpkm_eval.data.questions import PUBLISHED, load_questions, question_sets
    from fwpkm_eval.reporting.tables_longbench import longbench_tables
    from fwpkm_eval.runs.jobs import TextSource, biggest_first
    from fwpkm_eval.runs.measures import longbench_job
    from fwpkm_eval.tasks.longbench import LongBenchSettings

    if 0 in passes and set(protocols) != {"open-book"}:
        raise UserError("passes 0 goes with protocol open-book alone: the others need at least 1 reading")
    settings = LongBenchSettings(
        passes=passes,
        write_chunk=write_chunk,
        protocols=tuple(dict.fromkeys(protocols)),
        questions=questions,
        max_context=max_context,
        seed=given.seed,
    )
    there = question_sets(given.data)
    names = sets or [name for name in PUBLISHED if name in there] or there
    loaded = [load_questions(given.data, name) for name in names]
    asked = {one.name: len(one.questions[: settings.questions]) for one in loaded}
    texts = [TextSource(given.data, one) for one in loaded]
    found = sources.find_sources(models, scale, given)
    jobs = biggest_first(longbench_job(source, text, settings) for text in texts for source in found)
    config = models_config("longbench", scale, found, given, sets=[one.name for one in loaded], **asdict(settings))
    measured = run_cells(jobs, given, config=config, models=found, texts=texts)

    def show(rows: Sequence[Row]) -> None:
        shown_as(longbench_tables, details=True)(rows)
        for name, number in asked.items():
            click.echo(f"{name}: {counted(number, 'question')}")

    conclude(measured, given, show)
