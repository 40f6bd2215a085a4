"""What the commands share that measure something while a model reads text: gates, addressing, cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options, sources
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    import pandas

    from fwpkm_eval.reporting.table import Table
    from fwpkm_eval.runs.engine import Job
    from fwpkm_eval.runs.jobs import ModelSource, TextSource

MakeJobs = Callable[["ModelSource", "TextSource"], "list[Job]"]
"""The cells of a model on a text; none where it has nothing to measure."""

sets = click.option(
    "--sets",
    default=None,
    metavar="NAMES",
    help="Text sets, separated by commas. [default: all with a test split]",
)


@dataclass(frozen=True)
class Common:
    """The options of every such command, as they were given."""

    models: Sequence[str | Path] | None
    scale: str
    sets: str | None
    data: str
    seed: int
    device: str
    dtype: str
    out: Path | None
    workers: int | None
    quiet: bool
    as_json: bool


def measure_on_texts(
    name: str,
    common: Common,
    settings: dict[str, Any],
    make_jobs: MakeJobs,
    tables: Callable[[pandas.DataFrame], list[Table]],
    *,
    nothing: str = "there is nothing to measure",
    first_set_only: bool = False,
) -> None:
    """Runs the cells of all models on all sets, prints their tables and keeps the run in ``--out``.

    ``nothing`` says why there is none, should no model have any. Raises UserError for that, too.
    """
    from fwpkm_eval.commands.measure import end, print_rows, print_tables, report_on, run_cells
    from fwpkm_eval.data import default_sets, load_set
    from fwpkm_eval.runs.jobs import TextSource, biggest_first
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.runs.rows import rows_to_frame

    found = sources.find_sources(common.models, common.scale, common.device, common.dtype)
    names = [part.strip() for part in common.sets.split(",")] if common.sets else default_sets(common.data)
    names = list(dict.fromkeys(names))[: 1 if first_set_only else None]
    config = {
        "command": name,
        "scale": common.scale,
        "models": [source.name for source in found],
        "data": common.data,
        "sets": names,
        "device": common.device,
        "dtype": common.dtype,
        **settings,
    }
    check_free(common.out, config)
    texts = [TextSource(common.data, load_set(common.data, one, "test")) for one in names]
    jobs = [job for text in texts for source in found for job in make_jobs(source, text)]
    if not jobs:
        raise UserError(nothing)
    measured = run_cells(
        biggest_first(jobs),
        out=common.out,
        config=config,
        models=found,
        texts=texts,
        seed=common.seed,
        workers=common.workers,
        quiet=common.quiet,
    )
    if common.as_json:
        print_rows(measured.rows)
    else:
        print_tables(tables(rows_to_frame(measured.rows)), details=True)
    report_on(common.out, measured, common.as_json)
    end(measured)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--models``, ``--scale``, ``--sets`` and all that a measuring command takes."""
    for option in reversed((sources.models, options.scale, sets, options.measuring)):
        command = option(command)
    return command
