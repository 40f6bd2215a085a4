"""``fwpkm-eval continual``: a memory adapts to one domain after the other, and is tested on all of them after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError


@click.command(name="continual")
@sources.models
@options.scale
@click.option(
    "--domains",
    type=options.NAMES,
    default=None,
    metavar="NAMES",
    help="Text sets in the order to adapt to. [default: the six Pile domains that --data has, else all its sets]",
)
@click.option("--adapt", type=options.SIZE, default="64K", show_default=True, help="Tokens of each to adapt to.")
@click.option("--test", type=options.SIZE, default="16K", show_default=True, help="Tokens of each to test on.")
@click.option("--segment", type=options.SIZE, default="4K", show_default=True, help="Tokens of a sequence.")
@options.tokens_of_a_write
@click.option("--test-writes", is_flag=True, help="Write while testing, too, into a copy. [default: tests only read]")
@options.measuring
def command(
    models: Sequence[sources.Chosen] | None,
    scale: str,
    domains: tuple[str, ...] | None,
    adapt: int,
    test: int,
    segment: int,
    write_chunk: int | None,
    test_writes: bool,
    given: options.Given,
) -> None:
    """Read one domain after the other, the memory carried on, and measure the loss on all of them after each.

    Slow weights stay as they are: only the memory learns. The table says by how much bits per byte of each domain
    change from what they were before anything was read.
    """
    from fwpkm_eval.commands.measure import conclude, models_config, run_cells, shown_as
    from fwpkm_eval.data import default_sets, load_set
    from fwpkm_eval.reporting.tables_continual import continual_tables
    from fwpkm_eval.runs.jobs import TextSource, biggest_first
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.runs.measures import continual_job
    from fwpkm_eval.tasks.continual import PILE_DOMAINS, ContinualSettings, check_domain

    settings = ContinualSettings(adapt, test, segment, write_chunk, test_writes, given.seed)
    named = sources.find_sources(models, scale, given)
    found = [source for source in named if source.has_fast_weights]
    if not found:
        raise UserError(
            "no model here has a memory that adapts: name one with fwpkm, fwmlp or lact, such as gdn+swa:fwpkm"
        )
    if models is not None and len(found) < len(named):
        left_out = ", ".join(source.name for source in named if not source.has_fast_weights)
        click.echo(f"left out, as nothing in them adapts (no fast weights): {left_out}", err=True)
    there = default_sets(given.data)
    pile = [name for name in PILE_DOMAINS if name in there]
    names = list(domains or pile or there)
    config = models_config("continual", scale, found, given, domains=names, **asdict(settings))
    check_free(given.out, config)
    texts = [TextSource(given.data, load_set(given.data, name, "test")) for name in names]
    for text in texts:
        for source in found:
            check_domain(text.text_set, settings, source.config)
    jobs = biggest_first(continual_job(source, texts, settings) for source in found)
    measured = run_cells(jobs, given, config=config, models=found, texts=texts)
    conclude(measured, given, shown_as(continual_tables, details=True))
