"""A training step by itself, for a clock: what `Trainer` does with rows of text in one process."""

from __future__ import annotations

import torch
from torch import Tensor

from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.training.objective import Objective, Part
from fwpkm_eval.training.optimizer import make_optimizer
from fwpkm_eval.training.recipe import RECIPES, Recipe


class TextStep:
    """Trains the model that it is given, a call a step; fast weights go on from one to the next.

    Loss, precision, clipping and optimizer are those of the scale's recipe (`Recipe`'s own for a scale that has none),
    its learning rate at the peak. `bf16`: whether activations have 16 bits, as the recipe says, on CUDA alone.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.recipe = RECIPES.get(model.config.scale, Recipe())
        self.bf16 = self.recipe.bf16 and model.device.type == "cuda"
        self.model = model
        self._objective = Objective(model, self.recipe.answer_weight)
        self._optimizer = make_optimizer(model, self.recipe)
        self._state = model.initial_state()
        model.forget_drawn()

    def __call__(self, rows: Tensor) -> None:
        """rows [B,T+1] int64, on the model's device: a step on its T tokens, written every `chunk_size` of them."""
        part = Part(rows, rows.new_empty(0), self.model.config.chunk_size)
        self._optimizer.zero_grad(set_to_none=True)
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self.bf16):
            loss, _, state = self._objective(part, self._state)
        self._state = state.fresh_sequence()  # without the caches, which hold on to the graph
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self._optimizer.step()
