"""``fwpkm-eval train``: trains one model into a checkpoint folder, on one process or under torchrun."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from fwpkm_eval.commands import options
from fwpkm_eval.errors import UserError, shown


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not (seconds > 0 and math.isfinite(seconds)):
        raise UserError(f"{shown(text)} is not a number of seconds above 0, such as 60 or 0.5")
    return seconds


def _setting(text: str) -> tuple[str, Any]:
    from fwpkm_eval.model_settings import parse_setting

    return parse_setting(text)


@click.command(name="train")
@click.option("--model", type=options.MODEL, required=True, metavar="NAME", help="Model in the paper's notation.")
@options.scale
@click.option(
    "--set",
    "chosen",
    type=options.Parsed("setting", _setting),
    multiple=True,
    metavar="SETTING=VALUE",
    help="Another value of a setting (a checkpoint's model.json has them all): of a memory, such as fwpkm.query_conv=0 "
    "or [16,0] for one in each layer, of the backbone (backbone.window=128), chunk_size, or of the recipe "
    "(recipe.needle_share=0.1); again for each.",
)
@click.option(
    "--out",
    type=options.Folder(),
    required=True,
    metavar="DIR",
    help="Checkpoint folder; written at the end, with save points on the way.",
)
@options.data
@options.seed
@click.option("--steps", type=click.IntRange(min=1), default=None, help="Steps. [default: the scale's recipe]")
@click.option(
    "--tokens",
    type=options.SIZE,
    default=None,
    metavar="SIZE",
    help="Tokens to read in all, in place of --steps: as many steps as end before so many tokens, one at least.",
)
@click.option("--rows", type=click.IntRange(min=1), default=None, help="Rows of a step. [default: the scale's recipe]")
@click.option(
    "--rows-at-once",
    type=click.IntRange(min=1),
    default=None,
    help="Rows that a process reads at a time, accumulating gradients. [default: all of its rows; at paper at most 32]",
)
@click.option(
    "--exercises/--no-exercises",
    default=True,
    show_default=True,
    help="Begin with short rows, where the scale's recipe has them (at micro and small).",
)
@click.option(
    "--needles/--no-needles",
    default=True,
    show_default=True,
    help="Needles and questions among the text, where the scale's recipe has them (at micro and small). Without them "
    "all is text, in long rows, as the published models read.",
)
@options.device
@click.option(
    "--precision",
    "--dtype",
    "precision",
    type=options.OneOf("precision", ["auto", "float32", "bfloat16"]),
    default="auto",
    show_default=True,
    help="Activations; auto is the recipe's on CUDA, float32 on a CPU. Weights and fast weights are float32.",
)
@click.option(
    "--parallel",
    default="ddp",
    show_default=True,
    metavar="ddp|fsdp",
    help="Under torchrun: the same weights in each process, or sharded over them.",
)
@click.option(
    "--recompute", is_flag=True, help="Keep no activations of mixers and MLPs: less memory, more time. At paper always."
)
@click.option("--compile", "compiled", is_flag=True, help="Compile mixers and MLPs with torch.compile.")
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads. [default: all cores]")
@click.option("--keep", type=click.IntRange(min=1), default=2, show_default=True, help="Save points kept.")
@click.option(
    "--save-every",
    type=options.Parsed("seconds", _seconds),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Between save points; never less than 20 times what the last one took.",
)
@click.option(
    "--log",
    type=options.Parsed("loggers", options.listed, lists=True),
    default=(),
    metavar="tensorboard,wandb",
    help="Loggers beside metrics.jsonl; each needs its package.",
)
@click.option("--resume", is_flag=True, help="Go on where a killed run of the same folder stopped.")
@options.quiet
@options.as_json
def command(
    model: str,
    scale: str,
    chosen: tuple[tuple[str, Any], ...],
    out: Path,
    data: str,
    seed: int,
    steps: int | None,
    tokens: int | None,
    rows: int | None,
    rows_at_once: int | None,
    exercises: bool,
    needles: bool,
    device: str,
    precision: str,
    parallel: str,
    recompute: bool,
    compiled: bool,
    threads: int | None,
    keep: int,
    save_every: float,
    log: tuple[str, ...],
    resume: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Train one model with its scale's recipe, the same for every model.

    The folder gets model.safetensors, model.json and a line of metrics.jsonl for each step (losses in nats per
    token, seconds since the start). A killed run goes on with --resume and, on a CPU, ends with the same weights.
    For many GPUs: torchrun --nproc-per-node 4 -m fwpkm_eval train …
    """
    from fwpkm_eval.malloc import tune_malloc
    from fwpkm_eval.runs.engine import end_with_the_starter

    is_started = end_with_the_starter()
    tune_malloc()
    import torch

    from fwpkm_eval.training.choose import choose_training
    from fwpkm_eval.training.finished import is_finished
    from fwpkm_eval.training.parallel import of_launcher
    from fwpkm_eval.training.recipe import lookahead_note
    from fwpkm_eval.training.run import Where, train_model
    from fwpkm_eval.training.savepoints import remove_save_points
    from fwpkm_eval.training.trainer import Settings

    if threads is not None:
        torch.set_num_threads(threads)
    config, recipe = choose_training(
        model,
        scale,
        chosen,
        data=data,
        seed=seed,
        steps=steps,
        tokens=tokens,
        rows=rows,
        exercises=exercises,
        needles=needles,
    )
    bf16 = None if precision == "auto" else precision == "bfloat16"
    settings = Settings(rows_at_once, bf16, recompute, compiled, keep)
    first = of_launcher("RANK", 0) == 0
    if resume and is_finished(out, config.trained_on(recipe.tokens), recipe, data):
        if first:
            remove_save_points(out)  # of a training that was killed between its last two steps
            said = json.dumps({"model": model, "out": str(out), "finished": True})
            click.echo(said if as_json else f"{out} holds this training, finished")
        return
    notes = (recipe.warm_up_note, lookahead_note(config, recipe)) if first and not quiet else ()
    for note in filter(None, notes):
        click.echo(f"note: {note}", err=True)
    where = Where(device, parallel, log, save_every, is_held=is_started)
    result = train_model(config, recipe, out, data, resume, quiet, settings, where)
    if result is None:  # not the first process
        return
    if as_json:
        click.echo(json.dumps({"model": model, "out": str(out), **result}))
        return
    answers, rate, peak = (result[key] for key in ("answer_accuracy", "tokens_per_second", "peak_memory_bytes"))
    bits = result["document_bits"]
    bits = math.nan if bits is None else bits  # the last steps were all dropped
    click.echo(
        f"{out}: documents {bits:.3f} bits per token"
        + ("" if answers is None else f", {100 * answers:.0f}% of answer digits right")
        + " (last steps of training)"
        + (f"; {rate:,.0f} tokens/s" if rate else "")
        + (f", {peak / 2**30:.2f} GiB at the peak" if peak else "")
    )
