"""``fwpkm-eval capacity``: how many needles memories of several sizes hold."""

from __future__ import annotations

from dataclasses import replace

import click

from fwpkm_eval.ablations import SCORES
from fwpkm_eval.capacity import NEEDLES, SUBKEYS, VALUE_DIMS
from fwpkm_eval.commands import options, trained
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
@trained.seeds(default=2)
@options.scale
@trained.steps
@trained.samples
@trained.dry_run
@options.measuring_into("runs/capacity-SCALE")
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
    given: options.Given,
) -> None:
    """Train FwPKM with memories of several sizes, and ask each for more and more needles in closed book.

    All --subkeys at values of the model's own width, and all --value-dims at its own number of sub-keys: 64 and 128 at
    micro. Without --out the results go to runs/capacity-SCALE. A run that was stopped goes on where it was, within a
    training too.
    """
    from fwpkm_eval.capacity import TASK, capacity_plan, models_of, sizes_of
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.reporting.tables_capacity import capacity_tables

    plan = capacity_plan(scale)
    plan = replace(
        plan,
        recipe=replace(plan.recipe, steps=steps or plan.recipe.steps),
        needles=needles,
        length=length or plan.length,
        samples=samples or plan.samples,
    )
    sizes = sizes_of(model_config(plan.model, scale, **plan.overrides), subkeys, value_dims)
    trained.train_and_measure(
        TASK,
        plan,
        models_of(sizes, score),
        capacity_tables,
        given,
        task=TASK,
        scale=scale,
        seeds=seeds,
        dry_run=dry_run,
        about={"score": score, "sizes": [size.name for size in sizes]},
    )
