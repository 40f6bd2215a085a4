"""Training with the memory's sparse closed form beside training with dense autograd, in one run.

Both train the same model from the same weights on the same batches; their losses are compared, so that the speeds are
those of one computation done in two ways.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.memory_layers import FwPKMLayer
from fwpkm_eval.training.parallel import Ranks
from fwpkm_eval.training.recipe import Recipe
from fwpkm_eval.training.trainer import Trainer

DENSE, SPARSE = "reference", "auto"
SAME_FIRST_LOSS, SAME_LOSS = 1e-3, 1e-2
"""Largest relative difference of the losses, of the first step and of those after it: beyond, nothing is reported.
idw slopes reach 1e3, so float32 roundings grow with each write; AdamW divides by moments that are small at first."""
WARM_UP = 1


@dataclass(frozen=True)
class TrainingSpeed:
    """Seconds of each step of `tokens` tokens in both ways; the relative difference of the losses of the first step,
    and the largest of all; the type of the activations."""

    tokens: int
    sparse: list[float]
    dense: list[float]
    first_difference: float
    loss_difference: float
    dtype: str = "float32"


def training_speed(
    config: ModelConfig, recipe: Recipe, steps: int = 4, data: str = "embedded", device: str = "cpu"
) -> TrainingSpeed:
    """Trains a model with a FwPKM for `steps` steps and one to warm up, in both ways by turns, step by step.

    Raises: UserError: the model has no FwPKM, or the two ways do not have the same losses.
    """
    if not config.spec.layers("fwpkm"):
        raise UserError(f"{config.name} has no fwpkm to compare; name one, as in gdn+swa:fwpkm")
    recipe = replace(recipe, steps=max(recipe.steps, steps + WARM_UP + 1))
    ranks = Ranks(torch.device(device))
    seconds: dict[str, list[float]] = {DENSE: [], SPARSE: []}
    losses: dict[str, list[float]] = {DENSE: [], SPARSE: []}
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for backend in (SPARSE, DENSE):
            trainer = Trainer(config, recipe, Path(folder), data, ranks=ranks)
            for layer in trainer.model.blocks:
                if isinstance(layer.memory, FwPKMLayer):
                    layer.memory.backend = backend
            runs[backend] = iter(trainer.run(save_every_seconds=float("inf")))
        for step in range(steps + WARM_UP):
            for backend, run in runs.items():
                started = time.perf_counter()
                report = next(run)
                if step >= WARM_UP:
                    seconds[backend].append(time.perf_counter() - started)
                losses[backend].append(report.loss)
    differences = [abs(a - b) / abs(b) for a, b in zip(losses[SPARSE], losses[DENSE], strict=True)]
    if not (differences[0] <= SAME_FIRST_LOSS and max(differences) <= SAME_LOSS):
        raise UserError(f"the two ways differ: losses {losses[SPARSE]} and {losses[DENSE]}")
    tokens = recipe.rows * recipe.tokens
    dtype = "bfloat16" if trainer.bf16 else "float32"
    return TrainingSpeed(tokens, seconds[SPARSE], seconds[DENSE], differences[0], max(differences), dtype)
