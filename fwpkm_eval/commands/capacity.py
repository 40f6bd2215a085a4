"""``fwpkm-eval capacity``: how many needles memories of several sizes hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from fwpkm_eval.ablations import SCORES
from fwpkm_eval.capacity import NEEDLES, SUBKEYS, VALUE_DIMS
from fwpkm_eval.commands import options
from fwpkm_eval.errors import unknown


def _score(text: str) -> str:
    if text not in SCORES:
        raise unknown("scoring", text, SCORES)
    return text


def _listed(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@click.command(name="capacity")
@click.option(
    "--subkeys",
    type=options.SIZES,
    default=_listed(SUBKEYS),
    show_default=True,
    help="Numbers S of sub-keys a half: S² slots.",
)
@click.option(
    "--value-dims", type=options.SIZES, default=_listed(VALUE_DIMS), show_default=True, help="Widths dv of the values."
)
@click.option(
    "--needles", type=options.SIZES, default=_listed(NEEDLES), show_default=True, help="Numbers of needles to hold."
)
@click.option("--length", type=options.SIZE, default=None, help="Tokens of a haystack. [default: 8K]")
@click.option(
    "--score",
    type=options.Parsed("scoring", _score),
    default="idw",
    show_default=True,
    metavar="idw|dot",
    help="Scoring of slots.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=2, show_default=True, help="Seeds, from --seed on.")
@options.scale
@click.option("--steps", type=click.IntRange(1), default=None, help="Steps of each training. [default: by scale]")
@click.option("--samples", type=click.IntRange(1), default=None, help="Haystacks per setting and seed. [default: 12]")
@click.option("--dry-run", is_flag=True, help="Show what would be trained, and train nothing.")
@options.data
@options.seed
@options.device
@options.dtype
@options.out_folder("runs/capacity-SCALE")
@options.engine
@options.shard
@options.memory_limit
@options.workers
@options.quiet
@options.as_json
def command(
    subkeys: tuple[int, ...],
    value_dims: tuple[int, ...],
    needles: tuple[int, ...],
    length: int | None,
    score: str,
    seeds: int,
    scale: str,
    steps: int | None,
    samples: int | None,
    dry_run: bool,
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
    """Train FwPKM with memories of several sizes, and ask each for more and more needles in closed book.

    All --subkeys at the scale's own value width, and all --value-dims at its own number of sub-keys. Without --out
    the results go to runs/capacity-SCALE. A run that was stopped goes on where it was, within a training too.
    """
    from fwpkm_eval.capacity import TASK, capacity_plan, models_of, sizes_of
    from fwpkm_eval.commands.measure import counted, end, print_plan, print_rows, print_tables, report_on, run_cells
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.reporting.tables_capacity import capacity_tables
    from fwpkm_eval.runs.ablation import fit_to_data, plan_ablation, run_config
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.runs.rows import rows_to_frame

    plan = capacity_plan(scale)
    plan = replace(
        plan,
        recipe=replace(plan.recipe, steps=steps or plan.recipe.steps),
        needles=needles,
        length=length or plan.length,
        samples=samples or plan.samples,
    )
    sizes = sizes_of(model_config(plan.model, scale, **plan.overrides), subkeys, value_dims)
    out = out or Path("runs") / f"capacity-{scale}"
    all_seeds = range(seed, seed + seeds)
    plan = fit_to_data(plan, data)
    where = resolve_device(device)
    config = {
        "command": TASK,
        "score": score,
        "sizes": [size.name for size in sizes],
        **run_config(plan, scale=scale, seeds=all_seeds, data=data, device=where.type, dtype=dtype),
    }
    if not dry_run:
        check_free(out, config)
    planned = plan_ablation(
        plan,
        models_of(sizes, score),
        all_seeds,
        scale=scale,
        data=data,
        checkpoints=out / "checkpoints",
        device=str(where),
        dtype=dtype,
        task=TASK,
    )
    if dry_run:
        from fwpkm_eval.runs.engine import usable_workers
        from fwpkm_eval.runs.plan import plan_of

        print_plan(plan_of(scale), planned.jobs, workers or usable_workers(len(planned.jobs), device=where.type))
        click.echo(
            f"{counted(len(planned.jobs), 'model')} to train and measure, {counted(plan.recipe.steps, 'step')} each"
        )
        return
    measured = run_cells(
        planned.jobs,
        out=out,
        config=config,
        models=[],
        texts=planned.texts,
        seed=seed,
        workers=workers,
        quiet=quiet,
        seeds=all_seeds,
        device=where.type,
    )
    if as_json:
        print_rows(measured.rows)
    else:
        print_tables(capacity_tables(rows_to_frame(measured.rows)))
    report_on(out, measured, as_json)
    end(measured)
