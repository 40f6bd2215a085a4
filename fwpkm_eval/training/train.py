"""Training from Python."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from fwpkm_eval.errors import UserError, shown
from fwpkm_eval.kernels.arguments import check_finite, check_whole
from fwpkm_eval.malloc import tune_malloc
from fwpkm_eval.model_settings import is_setting
from fwpkm_eval.reference_models.checkpoint import load_checkpoint
from fwpkm_eval.training.choose import choose_training
from fwpkm_eval.training.finished import is_finished
from fwpkm_eval.training.recipe import lookahead_note
from fwpkm_eval.training.run import Where, train_model


def train(
    model: str,
    out: str | os.PathLike[str],
    *,
    scale: str = "micro",
    settings: Mapping[str, Any] | None = None,
    data: str | os.PathLike[str] = "embedded",
    seed: int = 0,
    steps: int | None = None,
    exercises: bool = True,
    needles: bool = True,
    device: str = "auto",
    save_every: float = 60.0,
    resume: bool = False,
    quiet: bool = False,
) -> Any:
    """Trains a model as `fwpkm-eval train` does, into the checkpoint folder ``out``, and loads it on the CPU: in one
    process (under torchrun the command is the way).

    glibc's malloc is told to keep what is freed, for the rest of the process: training is several times as fast so.

    Args:
        model: the notation. settings: other values of settings, such as ``{"fwpkm.topk": 32, "recipe.needle_share":
            0.1}``; a checkpoint's model.json has them all. data: ``embedded``, ``hub``, or a folder of
            ``<set>/train.jsonl[.gz]``. steps: in place of the recipe's. exercises, needles: False trains without short
            rows, without needles (which means without short rows, too). save_every: seconds between save points.
            resume: go on where a killed training of the same settings stopped; a finished one is loaded. quiet: no
            progress lines (on standard error).

    Returns:
        What `load_model` returns.

    Raises:
        UserError: an unknown model or setting, a value that does not fit, missing data, a folder that holds something
            already.
        OSError: the folder cannot be written.
        fwpkm_eval.training.trainer.Diverged: training ran away; the last good save point is kept.
    """
    if not isinstance(model, str):
        raise UserError(f"model is a {type(model).__name__}; it must be a name such as gdn+swa:fwpkm")
    if not isinstance(out, str | os.PathLike):
        raise UserError(f"out is {out!r}; it must be a folder")
    if not str(out):
        raise UserError("out is empty: name the folder that the checkpoint is to be in")
    for name, text in (("scale", scale), ("device", device)):
        if not isinstance(text, str):
            raise UserError(f"{name} is {text!r}; it must be text")
    if not isinstance(data, str | os.PathLike):
        raise UserError(f"data is {data!r}; it must be embedded, hub or a folder")
    check_whole("seed", seed, 0)
    if seed >= 2**32:
        raise UserError(f"seed is {seed}; it must be below 2**32")
    check_finite("save_every", save_every)
    if save_every < 0:
        raise UserError(f"save_every is {save_every}; it must be at least 0 seconds")
    if steps is not None:
        check_whole("steps", steps, 1)
    for name, choice in (("exercises", exercises), ("needles", needles), ("resume", resume), ("quiet", quiet)):
        if not isinstance(choice, bool):
            raise UserError(f"{name} is {choice!r}; it must be True or False")
    if not isinstance(settings, Mapping | None):
        raise UserError(f"settings is a {type(settings).__name__}; it must be a dict such as {{'fwpkm.topk': 32}}")
    for key in settings or {}:
        if not (isinstance(key, str) and is_setting(key)):
            raise UserError(f"{shown(str(key))} is no setting; they are named as in fwpkm.topk or recipe.needle_share")
    # NumPy's numbers are no JSON, which a checkpoint's description is.
    seed, steps, data = int(seed), None if steps is None else int(steps), os.fspath(data)
    chosen = [(key, _plain(value)) for key, value in (settings or {}).items()]
    folder = Path(out)
    config, recipe = choose_training(
        model, scale, chosen, data=data, seed=seed, steps=steps, exercises=exercises, needles=needles
    )
    for note in filter(None, () if quiet else (recipe.warm_up_note, lookahead_note(config, recipe))):
        print(f"note: {note}", file=sys.stderr)
    tune_malloc()
    if not (resume and is_finished(folder, config.trained_on(recipe.tokens), recipe, data)):
        train_model(config, recipe, folder, data, resume, quiet, where=Where(device, save_every=save_every))
    return load_checkpoint(folder)


def _plain(value: Any) -> Any:
    """A setting as JSON has it: of one number for each layer a list, of NumPy's numbers Python's."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, bool | int | float):
        return value
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else value
