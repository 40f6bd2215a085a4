"""Whether a folder holds a training that is wanted again, so that nothing is trained twice or taken for another."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch

from fwpkm_eval.data import split_file
from fwpkm_eval.data.tokenizers import tokenizer_named
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.checkpoint import DESCRIPTION, read_description
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.gated_delta import delta_rule_backend
from fwpkm_eval.training.batches import training_text
from fwpkm_eval.training.recipe import Recipe
from fwpkm_eval.training.savepoints import first_difference


def recipe_computed_on(device: torch.device, recipe: Recipe) -> dict[str, Any]:
    """What training by a recipe on a device computes with, where it is not float32 and torch: `bf16`, `delta_rule`."""
    bf16 = recipe.bf16 and device.type == "cuda"
    rule = delta_rule_backend(device, torch.bfloat16 if bf16 else torch.float32)
    return ({"bf16": True} if bf16 else {}) | ({} if rule == "torch" else {"delta_rule": rule})


def is_finished(
    folder: Path, config: ModelConfig, recipe: Recipe, data: str, device: torch.device | None = None
) -> bool:
    """Whether the folder holds the checkpoint of this very training: configuration, recipe, seed and text.

    device: with one, what it would train with must be what the checkpoint was trained with, too.

    Raises:
        UserError: it holds the checkpoint of another one, or a description that cannot be read; or the text is missing.
    """
    if not (folder / DESCRIPTION).exists():
        return False
    try:
        stored = read_description(folder)
    except UserError as problem:
        raise UserError(f"{problem}; delete {folder} to train it anew") from None
    training: Any = stored.get("training")
    about = training if isinstance(training, dict) else {}
    there = {
        "config": stored["config"],
        "recipe": about.get("recipe") or {},
        "seed": stored["seed"],
        "data_hash": about.get("data_hash"),
    }
    here = {
        "config": config.to_dict(),
        "recipe": recipe.to_dict(),
        "seed": recipe.seed,
        "data_hash": _data_hash(recipe.sets, config.tokenizer, data, _stamps(recipe.sets, data)),
    }
    if device is not None:
        here["computed"] = recipe_computed_on(device, recipe)
        there["computed"] = {name: about[name] for name in ("bf16", "delta_rule") if about.get(name)}
    difference = first_difference(there, json.loads(json.dumps(here)))
    if difference is not None:
        raise UserError(
            f"{folder} holds another model: {difference}; delete it to train this one, or choose another --out folder"
        )
    return True


def _stamps(sets: tuple[str, ...], data: str) -> tuple[tuple[int, int], ...]:
    """Size and time of the files: what says that a text was changed."""
    files = filter(None, (split_file(data, name, "train") for name in sets))
    return tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)


@functools.lru_cache(maxsize=4)
def _data_hash(sets: tuple[str, ...], tokenizer: str, data: str, stamps: tuple[tuple[int, int], ...]) -> str:
    """Read once for all the models of a run, for it takes seconds."""
    return training_text(Recipe(sets=sets), tokenizer_named(tokenizer), data).data_hash
