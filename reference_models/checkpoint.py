"""Checkpoints: a folder with `model.safetensors` (weights) and `model.json` (configuration, seed and hash); no pickle.

A FwPKM's keys are stored. Values, and the weights of dense memories, are drawn from the seed again
(`LanguageModel.initial_state`), unless training never cleared them: then what it left is stored, and is what they start
from (`FastWeightLayer.start_from`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fwpkm_eval.errors import UserError
from fwpkm_eval.files import write_whole
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FastWeightLayer
from fwpkm_eval.reference_models.weights_hash import hash_weights

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
FORMAT = 1


def round_weights(model: LanguageModel, dtype: torch.dtype) -> None:
    """Rounds the weights to what `dtype` can hold, in place: what is measured is then exactly what is stored.

    Raises:
        UserError: a weight is not finite, or too large for `dtype`; no weight is changed then.
    """
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.to(dtype).isfinite().all():
                raise UserError(
                    f"{name} holds values that {dtype} cannot: the largest is {tensor.abs().max().item():g}"
                )
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.to(dtype))


def save_checkpoint(
    model: LanguageModel, folder: Path, about: dict[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Writes the folder's two files, each whole or not at all; weights are stored as `dtype`.

    What fast weights start from is float32 in a model of any type, and stored so where `dtype` does not hold it.
    about: whatever describes the training (recipe, data hash, versions); stored beside the configuration.

    Raises:
        UserError: `dtype` does not hold the weights as they are (see `round_weights`); nothing is written then.
    """
    slow = dict(model.named_parameters())
    weights = {}
    for name, tensor in model.state_dict().items():
        fits = torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)
        if not fits and name in slow:
            raise UserError(f"{name} cannot be stored as {dtype} without a change: round the weights first")
        weights[name] = tensor.detach().cpu().to(dtype if fits else tensor.dtype).contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "format": FORMAT,
        "config": model.config.to_dict(),
        "seed": model.seed,
        # Of the weights as they are when they are loaded, whatever type they have now.
        "weights_hash": hash_weights(model.seed, {name: tensor.float() for name, tensor in weights.items()}),
        "training": about,
    }
    save_tensors(folder / WEIGHTS, weights)
    write_whole(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, there whole or as it was. UserError if it cannot be written."""
    try:
        write_whole(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    except SafetensorError as problem:  # a full disk, say
        raise UserError(f"cannot write {path}: {problem}") from None


def read_description(folder: Path) -> dict[str, Any]:
    """The folder's `model.json`. UserError if it is missing or not one of ours."""
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no checkpoint in {folder}: it must hold {DESCRIPTION} and {WEIGHTS}") from None
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} is not a checkpoint description: {problem}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint description of format {FORMAT}")
    if not isinstance(description.get("config"), dict) or type(description.get("seed")) is not int:
        raise UserError(f"{path} is not a checkpoint description: it needs a config and a whole number as seed")
    return description


def load_checkpoint(
    folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> LanguageModel:
    """The model of a checkpoint folder, in evaluation mode; its `weights_hash` is the checkpoint's in every dtype.

    Raises:
        UserError: files missing or damaged, weights of another shape than the configuration says, or a wrong hash.
    """
    folder = Path(folder)
    description = read_description(folder)
    model = LanguageModel(ModelConfig.from_dict(description["config"]), seed=description["seed"])
    try:
        weights = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise UserError(f"no weights in {folder}: {WEIGHTS} is missing") from None
    except (OSError, SafetensorError) as problem:
        raise UserError(f"{folder / WEIGHTS} cannot be read: {problem}") from None
    _expect_what_is_kept(model, weights)
    check_same_shapes(weights, model.state_dict(), folder / WEIGHTS)
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    found = hash_weights(model.seed, model.state_dict())
    if found != description.get("weights_hash"):
        raise UserError(
            f"{folder / WEIGHTS} has hash {found}, its description says "
            f"{description.get('weights_hash')}: the weights were changed or belong to another checkpoint"
        )
    model = model.to(device).eval()
    for parameter in model.parameters():  # and no buffer: those are what fast weights start from
        parameter.data = parameter.data.to(dtype)
    model.was_loaded(found)
    return model


def _expect_what_is_kept(model: LanguageModel, weights: Mapping[str, torch.Tensor]) -> None:
    """Makes room for the fast weights that a checkpoint holds beside keys."""
    for number, block in enumerate(model.blocks):
        layer = block.memory
        if isinstance(layer, FastWeightLayer) and any(
            f"layers.{number}.memory.first_{name}" in weights for name in layer.drawn_shapes
        ):
            layer.start_from({name: torch.zeros(()) for name in layer.drawn_shapes})


def check_same_shapes(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], path: Path) -> None:
    """Refuses tensors that are missing, unknown or of another shape, naming the first."""
    for name in sorted(set(found) | set(wanted)):
        if name not in found:
            raise UserError(f"{path} lacks the tensor {name}: it is a checkpoint of another model")
        if name not in wanted:
            raise UserError(f"{path} has a tensor {name} that the model does not: it is a checkpoint of another model")
        if found[name].shape != wanted[name].shape:
            raise UserError(
                f"{path}: tensor {name} is {list(found[name].shape)}, the model needs {list(wanted[name].shape)}"
            )
