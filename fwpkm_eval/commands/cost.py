"""``fwpkm-eval cost``: parameters, FLOPs, speed and memory of whole models."""

from __future__ import annotations

from dataclasses import asdict

import click

from fwpkm_eval.commands import options, reading


@click.command(name="cost")
@reading.common_options
@options.tokens_or("32K")
@click.option("--segment", type=options.SIZE, default="4K", show_default=True, help="Tokens of a sample.")
@click.option(
    "--steps", type=click.IntRange(0), default=8, show_default=True, help="Training steps to time; 0: only reading."
)
def command(tokens: int | None, segment: int, steps: int, common: reading.Common) -> None:
    """Count parameters and FLOPs per token, and time reading and training.

    FLOPs are from the models' sizes; speeds are of this machine, one model at a time in each process, by turns with
    the same backbone without memory. The first of --sets is read.
    """
    from fwpkm_eval.commands.measure import shown_as
    from fwpkm_eval.reporting.tables_cost import cost_tables
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.runs.jobs import ModelSource, TextSource
    from fwpkm_eval.runs.measures import cost_job
    from fwpkm_eval.tasks.cost import CostSettings

    seed = common.given.seed
    settings = CostSettings(tokens=tokens or CostSettings.tokens, segment=segment, steps=steps, seed=seed)

    def jobs(source: ModelSource, text: TextSource) -> list[Job]:
        return [cost_job(source, text, settings)]

    show = shown_as(cost_tables, details=True)
    reading.measure_on_texts("cost", common, asdict(settings), jobs, show, first_set_only=True)
