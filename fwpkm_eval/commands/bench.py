"""``fwpkm-eval bench``: speed and memory of the memory operations, beside the dense reference, in one run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands import options
from fwpkm_eval.errors import UserError

if TYPE_CHECKING:
    from fwpkm_eval.bench.run import BenchResult
    from fwpkm_eval.runs.rows import Row


WHAT = ("ops", "models", "training")
MODELS = {
    "micro": ("gdn+swa", "gdn+swa:pkm", "gdn+swa:fwmlp", "gdn+swa:fwpkm"),
    "small": ("gdn+swa", "gdn+swa:pkm", "gdn+swa:fwmlp", "gdn+swa:fwpkm"),
    "paper": ("gdn", "gdn:fwpkm@2,6,10"),
}
"""The backbone first: the others' speed is given as a share of its own."""


@click.command(name="bench")
@click.option(
    "--what",
    type=options.choices("what", "benchmark", WHAT),
    default="ops",
    show_default=True,
    metavar="ops,models,training",
    help="The memory operations, whole models, training steps beside dense autograd.",
)
@click.option(
    "--size",
    "--scale",
    "size",
    type=str,
    default="micro",
    show_default=True,
    metavar="micro|small|paper",
    help="Sizes of which scale; paper needs about 12 GB and some minutes.",
)
@click.option("--batch", type=click.IntRange(1, 4096), default=1, show_default=True, help="Sequences in a batch.")
@options.models
@click.option("--length", type=options.SIZE, default=None, help="Tokens of a model's sequences. [default: by size]")
@options.device
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
@click.option(
    "--scaling",
    is_flag=True,
    help="Also time a token over numbers of slots and of tokens, and where tokens repeat as words do.",
)
@options.out
@options.quiet
@options.as_json
def command(
    what: tuple[str, ...],
    size: str,
    batch: int,
    models: tuple[str, ...] | None,
    length: int | None,
    device: str,
    threads: int | None,
    repeats: int,
    scaling: bool,
    out: Path | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure speed and memory: of the memory operations against the dense reference, and of whole models.

    Outputs, fast weights and gradients of the operations are checked against the reference first; what does not agree
    is not timed. Every measurement has a process of its own, once with malloc as the system has it and once told to
    keep freed memory, as this program's own commands run. Models are timed beside the first of them, the backbone.
    A run with --out that was stopped goes on where it was; what stands in one ratio is measured in one run.
    """
    from fwpkm_eval.bench.models import ModelCase, model_rows, run_models
    from fwpkm_eval.bench.ops import op_size
    from fwpkm_eval.bench.peers import peer_rows, run_peers, steps_of_peers
    from fwpkm_eval.bench.rows import bench_rows
    from fwpkm_eval.bench.run import SECONDS_A_MEASUREMENT, run_ops, steps_of_ops
    from fwpkm_eval.bench.session import Session
    from fwpkm_eval.bench.training import TrainingCase, run_training, steps_of_training, training_rows
    from fwpkm_eval.bench.worker import MeasurementFailed
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.reference_models.config import model_config

    where = str(resolve_device(device))
    chosen = op_size(size, batch, where)
    names = [model_config(name, size).name for name in models or MODELS[size]]
    cases = [ModelCase(name, size, batch, length or chosen.tokens, where) for name in names]
    if out is not None:
        from fwpkm_eval.runs.manifest import check_or_create

        config = {"task": "bench", "what": list(what), "size": str(chosen), "threads": threads, "scaling": scaling}
        if "models" in what:
            config |= {"models": names, "length": cases[0].length}
        if "training" in what:
            config |= {"trained": names[-1]}
        command_line = ["fwpkm-eval", *sys.argv[1:]]
        check_or_create(
            out, config, command=command_line, device={"device": where}, grows=False
        )  # ratios are of one run

    def say(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    planned = steps_of_ops(chosen, scaling) + steps_of_peers() if "ops" in what else 0
    planned += len(cases) if "models" in what else 0
    planned += steps_of_training(where) if "training" in what else 0
    session = Session(out, planned, say, where)
    common: dict[str, Any] = {"threads": threads, "repeats": repeats}
    common |= {"runner": session, "tell": session.tell, "together": session.together}
    result, rows = None, []
    failed: dict[str, str] = {}
    if "ops" in what:
        try:
            result = run_ops(chosen, scaling=scaling, **common)
            rows += bench_rows(result)
        except MeasurementFailed as problem:
            failed["operations"] = str(problem)
        rows += peer_rows(run_peers(chosen, failed=failed, budget=SECONDS_A_MEASUREMENT, remark=say, **common))
    if "models" in what:
        rows += model_rows(run_models(cases, failed=failed, budget=SECONDS_A_MEASUREMENT, **common), names[0])
    if "training" in what:
        rows += training_rows(run_training(TrainingCase(names[-1], size, where), failed=failed, **common))
    broken = [f"{name} failed: {why}" for name, why in failed.items()]
    if not rows:
        raise UserError(f"nothing could be measured: {'; '.join(broken)}")
    if out is not None:
        _store(out, rows, result, finished=not broken)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=1))
    else:
        _show(result, rows)
    if result is not None and result.failures:
        for arm, wrong in result.failures.items():
            state = "failed" if arm in result.crashed else "does not agree with the reference and was not timed"
            click.echo(f"{arm} {state}: {'; '.join(wrong)}", err=True)
    for line in broken:
        click.echo(line, err=True)
    if broken or (result is not None and result.failures):
        raise click.exceptions.Exit(1)


def _store(out: Path, rows: list[Row], result: BenchResult | None, finished: bool) -> None:
    """Writes rows.csv and what the numbers depend on, then tables, plots and report."""
    from fwpkm_eval.reporting import build_report
    from fwpkm_eval.runs.manifest import update_manifest
    from fwpkm_eval.runs.rows import write_rows_csv

    write_rows_csv(rows, out / "rows.csv")
    if result is None:
        update_manifest(out, finished=finished)
        build_report(out)
        return
    conditions: dict[str, Any] = {
        "threads": result.threads,
        "lowest_share_of_a_core": round(min(each.cpu_share for each in result.measured.values()), 2),
        "load_average_before": result.load[0],
        "load_average_after": result.load[1],
        "seconds": round(result.seconds, 1),
    }
    update_manifest(
        out, seeds=[result.agreement.seed], conditions=conditions, finished=finished and not result.failures
    )
    build_report(out)


def _show(result: BenchResult | None, rows: list[Row]) -> None:
    """The tables of the report, and for the operations what the tables do not say."""
    from fwpkm_eval.bench.show import agreement, conditions
    from fwpkm_eval.commands.measure import shown_as
    from fwpkm_eval.reporting.tables_speed import bench_tables

    if result is not None:
        click.echo(agreement(result))
    shown_as(bench_tables, notes=True)(rows)
    if result is not None:
        click.echo(f"\n{conditions(result)}")
