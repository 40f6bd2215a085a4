"""``fwpkm-eval addressing``: how evenly the slots of each memory are used."""

from __future__ import annotations

from dataclasses import asdict

import click

from fwpkm_eval.commands import options, reading


@click.command(name="addressing")
@reading.common_options
@options.tokens_or("64K of each set")
@options.tokens_of_a_write
def command(tokens: int | None, write_chunk: int | None, common: reading.Common) -> None:
    """Count which slots are read and written: collisions, coverage and distance to even use, per chunk and in all.

    For models with FwPKM.
    """
    from fwpkm_eval.commands.measure import shown_as
    from fwpkm_eval.reporting.tables_memory import addressing_tables
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.runs.jobs import ModelSource, TextSource
    from fwpkm_eval.runs.measures import addressing_job
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    settings = PerplexitySettings(tokens=tokens or 65536, write_chunk=write_chunk, seed=common.given.seed)

    def jobs(source: ModelSource, text: TextSource) -> list[Job]:
        return [addressing_job(source, text, settings)] if source.config.spec.layers("fwpkm") else []

    reading.measure_on_texts(
        "addressing",
        common,
        asdict(settings),
        jobs,
        shown_as(addressing_tables, details=True),
        nothing="no model here has slots that are written: name one with fwpkm, such as gdn+swa:fwpkm",
    )
