"""``fwpkm-eval ablate``: what each part of FwPKM is worth, under both scorings, over several seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from fwpkm_eval.ablations import ARMS, SCORES, AblationPlan
from fwpkm_eval.commands import options
from fwpkm_eval.errors import unknown


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _arms(text: str) -> tuple[str, ...]:
    for name in _names(text):
        if name not in ARMS and name not in SCORES:
            raise unknown("arm", name, [*ARMS, *SCORES])
    return _names(text)


def _scores(text: str) -> tuple[str, ...]:
    for name in _names(text):
        if name not in SCORES:
            raise unknown("scoring", name, SCORES)
    return _names(text)


@click.command(name="ablate")
@click.option(
    "--arms",
    type=options.Parsed("arms", _arms),
    default=None,
    metavar="NAMES",
    help=f"What to take away: {', '.join(ARMS)}; idw or dot compare the scorings alone. "
    "[default: all that the scale's model has]",
)
@click.option(
    "--scores",
    type=options.Parsed("scorings", _scores),
    default=",".join(SCORES),
    show_default=True,
    help="Scorings of slots, each with its own reference.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=3, show_default=True, help="Seeds, from --seed on.")
@click.option("--model", type=options.MODEL, default=None, metavar="NAME", help="The model. [default: by scale]")
@options.scale
@click.option("--steps", type=click.IntRange(1), default=None, help="Steps of each training. [default: by scale]")
@click.option("--length", type=options.SIZE, default=None, help="Tokens of a haystack. [default: 4K]")
@click.option("--samples", type=click.IntRange(1), default=None, help="Haystacks per setting and seed. [default: 12]")
@options.tokens
@click.option("--dry-run", is_flag=True, help="Show what would be trained, and train nothing.")
@options.data
@options.seed
@options.device
@options.dtype
@options.out_folder("runs/ablation-SCALE")
@options.engine
@options.shard
@options.memory_limit
@options.workers
@options.quiet
@options.as_json
def command(
    arms: tuple[str, ...] | None,
    scores: tuple[str, ...],
    seeds: int,
    model: str | None,
    scale: str,
    steps: int | None,
    length: int | None,
    samples: int | None,
    tokens: int | None,
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
    """Train FwPKM without each of its parts, and measure each beside its reference in the same run.

    Every arm is trained under both scorings with the same seeds as the reference, the same model with nothing
    taken away, and asked for needles and perplexity. Without --out the results go to runs/ablation-SCALE. A run
    that was stopped goes on where it was, within a training too.
    """
    from fwpkm_eval.ablations import ablation_plan, arms_of, models_to_train
    from fwpkm_eval.commands.measure import counted, end, print_plan, print_rows, print_tables, report_on, run_cells
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.reporting.tables_ablation import ablation_tables
    from fwpkm_eval.runs.ablation import fit_to_data, plan_ablation, run_config
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.runs.rows import rows_to_frame

    out = out or Path("runs") / f"ablation-{scale}"
    all_seeds = range(seed, seed + seeds)
    plan = fit_to_data(_changed(ablation_plan(scale), steps, length, samples, tokens), data)
    arms = arms_of(model or plan.model, scale, plan) if arms is None else arms
    where = resolve_device(device)
    config = {
        "command": "ablate",
        "model": model or plan.model,
        "arms": sorted(arms),
        "scores": sorted(scores),
        **run_config(plan, scale=scale, seeds=all_seeds, data=data, device=where.type, dtype=dtype),
    }
    if not dry_run:
        check_free(out, config)
    planned = plan_ablation(
        plan,
        models_to_train(arms, scores),
        all_seeds,
        scale=scale,
        data=data,
        checkpoints=out / "checkpoints",
        device=str(where),
        dtype=dtype,
        model=model,
    )
    jobs = planned.jobs
    if dry_run:
        from fwpkm_eval.runs.engine import usable_workers
        from fwpkm_eval.runs.plan import plan_of

        print_plan(plan_of(scale), jobs, workers or usable_workers(len(jobs), device=where.type))
        click.echo(f"{counted(len(jobs), 'model')} to train and measure, {counted(plan.recipe.steps, 'step')} each")
        return
    measured = run_cells(
        jobs,
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
        print_tables(ablation_tables(rows_to_frame(measured.rows)))
    report_on(out, measured, as_json)
    end(measured)


def _changed(
    plan: AblationPlan, steps: int | None, length: int | None, samples: int | None, tokens: int | None
) -> AblationPlan:
    """The plan with what the command line changes in it."""
    recipe = plan.recipe if steps is None else replace(plan.recipe, steps=steps)
    return replace(
        plan,
        recipe=recipe,
        length=length or plan.length,
        samples=samples or plan.samples,
        tokens=tokens or plan.tokens,
    )
