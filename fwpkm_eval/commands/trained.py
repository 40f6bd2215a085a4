"""What the commands share that train the models that they measure: ablate and capacity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fwpkm_eval.commands.options import Given

if TYPE_CHECKING:
    import pandas

    from fwpkm_eval.ablations import AblationPlan, Trained
    from fwpkm_eval.reporting.table import Table

steps = click.option(
    "--steps", type=click.IntRange(1), default=None, help="Steps of each training. [default: by scale]"
)
samples = click.option(
    "--samples", type=click.IntRange(1), default=None, help="Haystacks per setting and seed. [default: 12]"
)
dry_run = click.option("--dry-run", is_flag=True, help="Show what would be trained, and train nothing.")


def seeds(default: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--seeds``, how many."""
    return click.option(
        "--seeds", type=click.IntRange(1, 1000), default=default, show_default=True, help="Seeds, from --seed on."
    )


def train_and_measure(
    command: str,
    plan: AblationPlan,
    models: Sequence[Trained],
    tables: Callable[[pandas.DataFrame], list[Table]],
    given: Given,
    *,
    task: str,
    scale: str,
    seeds: int,
    dry_run: bool,
    model: str | None = None,
    about: dict[str, Any],
) -> None:
    """Trains and measures the models with each seed, and prints ``tables`` of their rows; cells are of ``task``.

    ``about`` is what the manifest holds beside plan and seeds; ``model``, if not the plan's, what all are variants of.
    Without ``--out`` the run is kept in runs/TASK-SCALE.
    """
    from fwpkm_eval.commands.measure import conclude, counted, print_plan, run_cells, shown_as
    from fwpkm_eval.devices import resolve_device
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.runs.ablation import fit_to_data, plan_ablation, run_config
    from fwpkm_eval.runs.manifest import check_free
    from fwpkm_eval.training.recipe import RECIPES

    out = given.out or Path("runs") / f"{task}-{scale}"
    given = replace(given, out=out)
    all_seeds = range(given.seed, given.seed + seeds)
    plan = fit_to_data(plan, given.data)
    where = resolve_device(given.device)
    of_plan = run_config(plan, scale=scale, seeds=all_seeds, data=given.data, device=where.type, dtype=given.dtype)
    config = {"command": command, **about, **of_plan}
    if not dry_run:
        check_free(out, config)
    planned = plan_ablation(
        plan,
        models,
        all_seeds,
        scale=scale,
        data=given.data,
        checkpoints=out / "checkpoints",
        model=model,
        task=task,
        device=str(where),
        dtype=given.dtype,
    )
    jobs = planned.jobs
    left_out = RECIPES[scale].exercise_steps and not plan.recipe.exercise_steps
    if left_out and "fa" in model_config(model or plan.model, scale).layer_kinds:
        click.echo("note: without short rows first, full attention does not learn to answer; the memory may", err=True)
    if plan.recipe.warm_up_note and not given.quiet:
        click.echo(f"note: {plan.recipe.warm_up_note}", err=True)
    if dry_run:
        from fwpkm_eval.runs.engine import usable_workers
        from fwpkm_eval.runs.plan import plan_of

        workers = given.workers or usable_workers(len(jobs), device=where.type)
        print_plan(plan_of(scale), jobs, workers, as_json=given.as_json)
        if not given.as_json:
            steps = counted(plan.recipe.steps, "step")
            click.echo(f"{counted(len(jobs), 'model')} to train and measure, {steps} each")
        return
    measured = run_cells(jobs, given, config=config, models=[], texts=planned.texts, seeds=all_seeds, device=where.type)
    conclude(measured, given, shown_as(tables))
