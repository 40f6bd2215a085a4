"""``fwpkm-eval gates``: how much each memory layer listens to what it reads."""

from __future__ import annotations

from dataclasses import asdict

import click

from fwpkm_eval.commands import options, reading


@click.command(name="gates")
@reading.common_options
@options.tokens_or("64K of each set")
@options.tokens_of_a_write
def command(tokens: int | None, write_chunk: int | None, common: reading.Common) -> None:
    """Count the gates of every memory layer while text is read: histogram, mean, and how many are shut or open.

    A gate mixes what the memory recalls (1) with the token's own value (0).
    """
    from fwpkm_eval.commands.measure import shown_as
    from fwpkm_eval.reporting.tables_memory import gate_tables
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.runs.jobs import ModelSource, TextSource
    from fwpkm_eval.runs.measures import gates_job, has_gates
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    settings = PerplexitySettings(tokens=tokens or 65536, write_chunk=write_chunk, seed=common.given.seed)

    def jobs(source: ModelSource, text: TextSource) -> list[Job]:
        return [gates_job(source, text, settings)] if has_gates(source) else []

    reading.measure_on_texts(
        "gates",
        common,
        asdict(settings),
        jobs,
        shown_as(gate_tables, details=True),
        nothing="no model here has a gate: name one with fwpkm, fwmlp or lact, such as gdn+swa:fwpkm",
    )
