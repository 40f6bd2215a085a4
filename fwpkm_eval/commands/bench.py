"""``fwpkm-eval bench``: speed and memory of the memory operations, beside the dense reference, in one run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options
from fwpkm_eval.errors import UserError, unknown

if TYPE_CHECKING:
    from fwpkm_eval.bench.run import BenchResult
    from fwpkm_eval.runs.rows import Row


def _what(text: str) -> str:
    if text == "models":
        raise UserError("'models' comes with a later version; there is: ops")
    if text != "ops":
        raise unknown("benchmark", text, ("ops", "models"))
    return text


@click.command(name="bench")
@click.option(
    "--what",
    type=options.Parsed("what", _what),
    default="ops",
    show_default=True,
    metavar="ops",
    help="What to measure: the memory operations.",
)
@click.option(
    "--size",
    type=click.Choice(["micro", "paper"]),
    default="micro",
    show_default=True,
    help="Sizes of which scale's memory; paper needs about 12 GB and some minutes.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    default=None,
    help="Threads of each measurement. [default: torch's choice]",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Calls timed at most in each measurement.",
)
@click.option("--scaling", is_flag=True, help="Also time a token over numbers of slots and of tokens.")
@options.out
@options.quiet
@options.as_json
def command(
    what: str,
    size: str,
    threads: int | None,
    repeats: int,
    scaling: bool,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure speed and memory of each implementation of a memory operation, and their ratio to the reference.

    Outputs, fast weights and gradients are checked against the reference first; what does not agree is not timed.
    Every measurement has a process of its own, once with malloc as the system has it and once told to keep freed
    memory, as this program's own commands run.
    """
    from fwpkm_eval.bench.ops import op_size
    from fwpkm_eval.bench.rows import bench_rows
    from fwpkm_eval.bench.run import run_ops

    chosen = op_size(size)
    if out is not None:
        from fwpkm_eval.runs.manifest import check_or_create

        config = {"task": "bench", "what": what, "size": str(chosen), "threads": threads, "scaling": scaling}
        check_or_create(out, config, command=["fwpkm-eval", *sys.argv[1:]], device={"device": "cpu"})
    result = run_ops(
        chosen,
        threads=threads,
        repeats=repeats,
        scaling=scaling,
        tell=lambda line: None if quiet else click.echo(line, err=True),
    )
    rows = bench_rows(result)
    if out is not None:
        _store(out, rows, result)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        _show(result)
    if result.failures:
        for arm, wrong in result.failures.items():
            click.echo(f"{arm} does not agree with the reference and was not timed: {'; '.join(wrong)}", err=True)
        raise click.exceptions.Exit(1)


def _store(out: Path, rows: list[Row], result: BenchResult) -> None:
    """Writes rows.csv and what the numbers depend on, then tables, plots and report."""
    from fwpkm_eval.reporting import build_report
    from fwpkm_eval.runs.manifest import update_manifest
    from fwpkm_eval.runs.rows import write_rows_csv

    write_rows_csv(rows, out / "rows.csv")
    conditions: dict[str, Any] = {
        "threads": result.threads,
        "lowest_share_of_a_core": round(min(each.cpu_share for each in result.measured.values()), 2),
        "load_average_before": result.load[0],
        "load_average_after": result.load[1],
        "seconds": round(result.seconds, 1),
    }
    update_manifest(out, seeds=[result.agreement.seed], conditions=conditions, finished=not result.failures)
    build_report(out)


def _show(result: BenchResult) -> None:
    from rich.console import Console

    from fwpkm_eval.bench.show import tables

    # Where the output is not a terminal nothing may be cut to its width.
    console = Console(width=None if sys.stdout.isatty() else 140)
    for part in tables(result):
        console.print(part, highlight=False)
