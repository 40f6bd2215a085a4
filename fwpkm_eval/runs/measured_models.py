"""What a manifest says of a model that was measured: what it is, where it was, and how it was trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fwpkm_eval.runs.cells import canonical_json

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.config import ModelConfig
    from fwpkm_eval.runs.jobs import ModelSource

SHIPPED = "shipped with fwpkm-eval"
"""In place of a folder: the weights that come with this package."""
_TOLD_APART = ("seed", "sets")
"""Of a recipe: what differs from training to training by its nature."""


def describe_model(source: ModelSource) -> dict[str, Any]:
    """The entry of a model in a manifest's ``models`` (JSON values).

    ``settings`` are those of the configuration, ``training.recipe`` those of the recipe, in which it is not as its
    scale's: each with what it ``is`` here and what is ``usual``. ``config_sha256`` is of the whole configuration:
    what is usual may change from one version to the next.

    Raises:
        UserError: the checkpoint's description cannot be read.
    """
    from fwpkm_eval.api import shipped_weights
    from fwpkm_eval.reference_models.checkpoint import read_description

    config = source.config
    shipped = source.weights_hash == shipped_weights(config.name, config.scale)
    training = read_description(source.checkpoint).get("training")
    return {
        "weights_hash": source.weights_hash,
        "checkpoint": SHIPPED if shipped else str(source.checkpoint),
        "scale": config.scale,
        "config_sha256": hashlib.sha256(canonical_json(config.to_dict()).encode()).hexdigest()[:16],
        "settings": _settings(config),
        "training": _trained(config.scale, training if isinstance(training, Mapping) else {}),
    }


def _settings(config: ModelConfig) -> dict[str, dict[str, Any]]:
    """In what the configuration is not its scale's, without the sizes of memories that the model does not have."""
    from fwpkm_eval.reference_models.config import SCALES, model_config
    from fwpkm_eval.reference_models.notation import MEMORIES

    if config.scale not in SCALES:
        return {}
    absent = {*MEMORIES} - {kind for kind, _ in config.spec.memories}
    unusual = _unusual(config.to_dict(), model_config(config.name, config.scale).to_dict())
    return {name: both for name, both in unusual.items() if name.partition(".")[0] not in absent}


def _trained(scale: str, training: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint that this program made says of its training; of any other only what it has."""
    from fwpkm_eval.training.recipe import RECIPES

    recipe = training.get("recipe")
    recipe = dict(recipe) if isinstance(recipe, Mapping) else {}
    found = {name: recipe.get(name) for name in ("steps", *_TOLD_APART)}
    found |= {name: training.get(name) for name in ("tokens", "data", "data_hash", "version")}
    found = {name: value for name, value in found.items() if value is not None}
    if scale in RECIPES and type(recipe.get("steps")) is int and recipe["steps"] > 0:
        # Where exercises end follows from the number of steps.
        usual = RECIPES[scale].shortened(recipe["steps"]).to_dict() | {"steps": RECIPES[scale].steps}
        unusual = _unusual(recipe, usual)
        found |= {"recipe": {name: both for name, both in unusual.items() if name not in _TOLD_APART}}
    return found


def _unusual(here: Mapping[str, Any], usual: Mapping[str, Any], owner: str = "") -> dict[str, dict[str, Any]]:
    """``{"fwpkm.topk": {"is": 16, "usual": 8}}``; None where one of them does not have it."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({*here, *usual}):
        value, other, path = here.get(name), usual.get(name), f"{owner}{name}"
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            found |= _unusual(value, other, f"{path}.")
        elif canonical_json(value) != canonical_json(other):
            found[path] = {"is": value, "usual": other}
    return found
