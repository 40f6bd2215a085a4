"""``fwpkm-eval ablate``: what each part of FwPKM is worth, under both scorings, over several seeds."""

from __future__ import annotations

import re
from dataclasses import replace

import click

from fwpkm_eval.ablations import ARMS, SCORES, AblationPlan, arm_named
from fwpkm_eval.commands import options, trained


def _arms_in_words() -> str:
    """What each arm tests, a line each, as click leaves them."""
    width = max(map(len, ARMS))
    own = f"  {'SETTING=VALUE':{width}}  another setting of model or recipe: fwpkm.topk=16, recipe.needle_share=0.1"
    joined = f"  {'ARM+ARM':{width}}  several at once: no-lookahead+no-entropy, fwpkm.heads=2+fwpkm.topk=4"
    named = (f"  {arm.name:{width}}  {arm.tests}" for arm in ARMS.values())
    return "\n".join(["\b", "Arms:", *named, own, joined])


def _arms(text: str) -> tuple[str, ...]:
    """``no-gate,fwpkm.query_conv=[16,0]`` as its two arms; a comma within brackets is a value's."""
    parts = (part.strip() for part in re.split(r",(?![^\[]*\])", text))
    return tuple(dict.fromkeys(part if part in SCORES else arm_named(part).name for part in parts if part))


@click.command(name="ablate", epilog=_arms_in_words())
@click.option(
    "--arms",
    type=options.Parsed("arms", _arms, lists=True),
    default=None,
    metavar="ARMS",
    help="What to take away or change, as below; idw or dot compare the scorings alone. "
    "[default: all that the scale's model has]",
)
@click.option(
    "--scores",
    type=options.choices("scorings", "scoring", SCORES, may_be_none=True),
    default=",".join(SCORES),
    show_default=True,
    help="Scorings of slots, each with its own reference.",
)
@trained.seeds(default=3)
@click.option("--model", type=options.MODEL, default=None, metavar="NAME", help="The model. [default: by scale]")
@options.scale
@click.option(
    "--full",
    is_flag=True,
    help="Train each as `train` would: the layers, slots and recipe of the scale's own model, at micro 20 to 40 CPU-"
    "minutes each. Needles are then asked closed book.",
)
@trained.steps
@click.option("--length", type=options.SIZE, default=None, help="Tokens of a haystack. [default: 4K]")
@click.option(
    "--needles", type=options.SIZES, default=None, help="Numbers of needles in a haystack. [default: by scale]"
)
@trained.samples
@options.tokens
@trained.dry_run
@options.measuring_into("runs/ablation-SCALE")
def command(
    arms: tuple[str, ...] | None,
    scores: tuple[str, ...],
    seeds: int,
    model: str | None,
    scale: str,
    full: bool,
    steps: int | None,
    length: int | None,
    needles: tuple[int, ...] | None,
    samples: int | None,
    tokens: int | None,
    dry_run: bool,
    given: options.Given,
) -> None:
    """Train FwPKM without each of its parts, and measure each beside its reference in the same run.

    Every arm is trained under both scorings with the same seeds as the reference, the same model with nothing
    taken away, and asked for needles and perplexity. Without --out the results go to runs/ablation-SCALE. A run
    that was stopped goes on where it was, within a training too.
    """
    from fwpkm_eval.ablations import ablation_plan, arms_of, models_to_train
    from fwpkm_eval.reporting.tables_ablation import ablation_tables
    from fwpkm_eval.runs.ablation import TASK

    plan = _changed(ablation_plan(scale, full=full), steps, length, needles, samples, tokens)
    arms = arms_of(model or plan.model, scale, plan) if arms is None else arms
    trained.train_and_measure(
        "ablate",
        plan,
        models_to_train(arms, scores),
        ablation_tables,
        given,
        task=TASK,
        scale=scale,
        seeds=seeds,
        dry_run=dry_run,
        model=model,
        about={"model": model or plan.model, "arms": sorted(arms), "scores": sorted(scores)},
    )


def _changed(
    plan: AblationPlan,
    steps: int | None,
    length: int | None,
    needles: tuple[int, ...] | None,
    samples: int | None,
    tokens: int | None,
) -> AblationPlan:
    """The plan with what the command line changes in it."""
    recipe = plan.recipe if steps is None else plan.recipe.shortened(steps)
    return replace(
        plan,
        recipe=recipe,
        length=length or plan.length,
        needles=needles or plan.needles,
        samples=samples or plan.samples,
        tokens=tokens or plan.tokens,
    )
