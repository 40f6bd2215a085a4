"""Tokens per second of training, with the memory's sparse closed form and with dense autograd, in one run.

    python -m fwpkm_eval.training.speed --model gdn+swa:fwpkm --scale micro --steps 4

Both train the same model from the same weights on the same batches; their losses are compared, so that the speeds are
those of one computation done in two ways.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
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
    """Medians over the steps, in tokens per second; the relative differences of the losses of the first step, and the
    largest of all."""

    sparse: float
    dense: float
    first_difference: float
    loss_difference: float

    @property
    def ratio(self) -> float:
        return self.sparse / self.dense


def training_speed(
    config: ModelConfig, recipe: Recipe, steps: int = 4, data: str = "embedded", device: str = "cpu"
) -> TrainingSpeed:
    """Trains a model with a FwPKM for `steps` steps and one to warm up, in both ways by turns, step by step.

    Raises: UserError: the model has no FwPKM, or the two ways do not have the same losses.
    """
    if not config.spec.layers("fwpkm"):
        raise UserError(f"{config.name} has no fwpkm to compare; name one, as in gdn+swa:fwpkm")
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
                    seconds[backend].append((time.perf_counter() - started) / report.tokens)
                losses[backend].append(report.loss)
    differences = [abs(a - b) / abs(b) for a, b in zip(losses[SPARSE], losses[DENSE], strict=True)]
    if not (differences[0] <= SAME_FIRST_LOSS and max(differences) <= SAME_LOSS):
        raise UserError(f"the two ways differ: losses {losses[SPARSE]} and {losses[DENSE]}")
    sparse, dense = (1 / statistics.median(seconds[backend]) for backend in (SPARSE, DENSE))
    return TrainingSpeed(sparse, dense, differences[0], max(differences))


def main() -> None:
    import argparse
    from dataclasses import replace

    from fwpkm_eval.malloc import tune_malloc
    from fwpkm_eval.reference_models.config import model_config
    from fwpkm_eval.training.recipe import recipe_for

    parser = argparse.ArgumentParser(description="Training speed, sparse closed form against dense autograd.")
    parser.add_argument("--model", default="gdn+swa:fwpkm")
    parser.add_argument("--scale", default="micro")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    tune_malloc()
    torch.set_num_threads(given.threads)
    config = model_config(given.model, given.scale)
    recipe = replace(recipe_for(config), steps=given.steps + WARM_UP + 1)
    for chunk in recipe.chunks:
        found = training_speed(config, replace(recipe, chunks=(chunk,)), given.steps, device=given.device)
        print(
            f"{config.name} at scale {given.scale}, a write every {chunk} tokens: {found.sparse:,.0f} tokens/s, dense "
            f"autograd {found.dense:,.0f} tokens/s, {found.ratio:.1f} times; losses agree to "
            f"{found.first_difference:.0e} in the first step, to {found.loss_difference:.0e} in all",
            flush=True,
        )


if __name__ == "__main__":
    main()
