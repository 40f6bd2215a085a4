"""What a training is to be, from a model's name and what is chosen for it: its configuration and its recipe."""

from __future__ import annotations

from collections.abc import Sequence

from fwpkm_eval.errors import UserError
from fwpkm_eval.model_settings import Setting, by_owner, check_settings
from fwpkm_eval.reference_models.config import ModelConfig, model_config
from fwpkm_eval.reference_models.notation import parse_model_name
from fwpkm_eval.settings import read_settings
from fwpkm_eval.training.recipe import Recipe, recipe_for

_OF_NEEDLES = ("needle_share", "dense_share", "answer_weight")
_OF_EXERCISES = ("exercise_tokens", "exercise_steps")


def choose_training(
    model: str,
    scale: str,
    settings: Sequence[Setting] = (),
    *,
    data: str = "embedded",
    seed: int = 0,
    steps: int | None = None,
    tokens: int | None = None,
    rows: int | None = None,
    exercises: bool = True,
    needles: bool = True,
) -> tuple[ModelConfig, Recipe]:
    """The model with these settings, and its scale's recipe with those that begin with ``recipe.``.

    Args: model: the notation. steps, or tokens to read in all (as many steps as end before, one at least), and rows of
        a step: in place of the recipe's. exercises, needles: False leaves out the short rows, the needles (see
        `recipe.recipe_for`).

    Raises:
        UserError: an unknown model, scale or setting, a value that does not fit, or steps and tokens both.
    """
    if steps is not None and tokens is not None:
        raise UserError("steps and tokens both say how long to train: one is enough")
    check_settings(settings, parse_model_name(model))
    of_model, of_recipe = by_owner(dict(settings))
    left_out = [*(_OF_NEEDLES if not needles else ()), *(_OF_EXERCISES if not (exercises and needles) else ())]
    if name := next((name for name in left_out if name in of_recipe), None):
        raise UserError(f"recipe.{name} is of what this training is to leave out (no needles, or no exercises)")
    config = model_config(model, scale, **of_model)
    recipe = recipe_for(config, data, exercises, needles)
    rows = rows or recipe.rows
    if tokens is not None:
        of_row = read_settings(of_recipe, Recipe).get("tokens", recipe.tokens)
        steps = max(1, tokens // max(1, rows * of_row))
    # Settings come last: steps that are named in one are steps of this training, and stay.
    return config, recipe.shortened(steps or recipe.steps).changed(of_recipe, seed=seed, rows=rows)
