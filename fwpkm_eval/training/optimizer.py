"""The optimizer of a recipe and its learning rate."""

from __future__ import annotations

import math

import torch

from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.training.recipe import Recipe


def make_optimizer(model: LanguageModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only, not on biases, norms, convolutions or decay rates."""
    matrices = [p for n, p in model.named_parameters() if p.dim() >= 2 and "conv" not in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = True if model.device.type == "cuda" else None
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.95), fused=fused)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine to `final_rate` of the peak."""
    if step < recipe.warmup:
        return recipe.learning_rate * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    floor = recipe.final_rate
    return recipe.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
