"""``fwpkm-eval continual``: a memory adapts to one domain after the other, and is tested on all of them after each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError


@click.command(name="continual")
@sources.models
@options.scale
@click.option(
    "--domains",
    default=None,
    metavar="NAMES",
    help="Text sets in the order to adapt to. [default: the six Pile domains that --data has, else all its sets]",
)
@click.option("--adapt", type=options.SIZE, default="64K", show_default=True, help="Tokens of each to adapt to.")
@click.option("--test", type=options.SIZE, default="16K", show_default=True, help="Tokens of each to test on.")
@click.option("--segment", type=options.SIZE, default="4K", show_default=True, help="Tokens of a sequence.")
@click.option("--write-chunk", type=options.SIZE, default=None, help="Tokens of a write. [default: the model's own]")
@click.option("--test-writes", is_flag=True, help="Write while testing, too, into a copy. [default: tests only read]")
@options.measuring
def command(
    models: Sequence[str | Path] | None,
    scale: str,
    domains: str | None,
    adapt: int,
    test: int,
    segment: int,
    write_chunk: int | None,
    test_writes: bool,
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
    """Read one domain after the other, the memory carried on, and measure the loss on all of them after each.

    Slow weights stay as they are: only the memory learns. The table says by how much bits per byte of each domain
    change from what they were before anything was read.
    """
    from fwpkm_eval.commands.measure import end, print_rows, print_tables, report_on, run_cells
    from fwpkm_eval.data import default_sets, load_set
    from fwpkm_eval.reporting.tables_continual import continual_tables
    from fwpkm_eval.runs.jobs import TextSource, biggest_first
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.runs.measures import continual_job
    from fwpkm_eval.runs.rows import rows_to_frame
    from fwpkm_eval.tasks.continual import PILE_DOMAINS, ContinualSettings, check_domain

    settings = ContinualSettings(adapt, test, segment, write_chunk, test_writes, seed)
    named = sources.find_sources(models, scale, device, dtype)
    found = [source for source in named if source.has_fast_weights]
    if not found:
        raise UserError(
            "no model here has a memory that adapts: name one with fwpkm, fwmlp or lact, such as gdn+swa:fwpkm"
        )
    if models is not None and len(found) < len(named):
        left_out = ", ".join(source.name for source in named if not source.has_fast_weights)
        click.echo(f"left out, as nothing in them adapts (no fast weights): {left_out}", err=True)
    there = default_sets(data)
    pile = [name for name in PILE_DOMAINS if name in there]
    names = [name.strip() for name in domains.split(",")] if domains else pile or there
    config = {
        "command": "continual",
        "scale": scale,
        "models": [source.name for source in found],
        "data": data,
        "domains": list(dict.fromkeys(names)),
        "device": device,
        "dtype": dtype,
        **asdict(settings),
    }
    check_free(out, config)
    texts = [TextSource(data, load_set(data, name, "test")) for name in dict.fromkeys(names)]
    for text in texts:
        for source in found:
            check_domain(text.text_set, settings, source.config)
    measured = run_cells(
        biggest_first(continual_job(source, texts, settings) for source in found),
        out=out,
        config=config,
        models=found,
        texts=texts,
        seed=seed,
        workers=workers,
        quiet=quiet,
    )
    if as_json:
        print_rows(measured.rows)
    else:
        print_tables(continual_tables(rows_to_frame(measured.rows)), details=True)
    report_on(out, measured, as_json)
    end(measured)
