"""``fwpkm-eval train``: trains one model into a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fwpkm_eval.commands import options


@click.command(name="train")
@click.option("--model", type=options.MODEL, required=True, metavar="NAME", help="Model in the paper's notation.")
@options.scale
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Checkpoint folder; written at the end, with a resumable copy once a minute.",
)
@options.data
@options.seed
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Steps. [default: the scale's recipe]")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads. [default: all cores]")
@click.option("--resume", is_flag=True, help="Go on where a killed run of the same folder stopped.")
@options.quiet
@options.as_json
def command(
    model: str,
    scale: str,
    out: Path,
    data: str,
    seed: int,
    steps: int | None,
    threads: int | None,
    resume: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train one model with its scale's recipe, the same for every model.

    The folder gets model.safetensors and model.json; a killed run goes on with --resume and ends with the same weights.
    """
    from dataclasses import replace

    from fwpkm_eval.malloc import tune_malloc

    tune_malloc()
    import torch

    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.training.recipe import recipe_for
    from fwpkm_eval.training.run import train_model

    if threads is not None:
        torch.set_num_threads(threads)
    recipe = replace(recipe_for(scale), seed=seed)
    if steps is not None:
        recipe = replace(recipe, steps=steps)
    result = train_model(model_config(model, scale), recipe, out, data, resume, quiet)
    if as_json:
        click.echo(json.dumps({"model": model, "out": str(out), **result}))
    else:
        click.echo(
            f"{out}: documents {result['document_bits']:.3f} bits per token, "
            f"{100 * result['answer_accuracy']:.0f}% of answer digits right (last steps of training)"
        )
