"""The step that clocks time is a step of training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_cases import TINY, tiny_training_config, write_words

from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.training.recipe import RECIPES
from fwpkm_eval.training.text_step import TextStep
from fwpkm_eval.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("spec", ["gdn", "gdn+swa:pkm@0", "gdn:fwpkm@1", "gdn:fwmlp@0", "gdn:lact@1"])
def test_it_does_what_the_trainer_does_with_text(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, over three steps: one layout in which no memory is reset, and the learning rate at its peak."""
    config = tiny_training_config(spec)
    recipe = replace(
        TINY, steps=4, layout="packed", needle_share=0.0, chunks=(config.chunk_size,), warmup=0, final_rate=1.0
    )
    monkeypatch.setitem(RECIPES, "micro", recipe)
    trainer = Trainer(config, recipe, tmp_path, write_words(tmp_path / "data"))
    model = LanguageModel(trainer.config, seed=recipe.seed)
    step = TextStep(model)
    assert not step.bf16
    running = iter(trainer.run(save_every_seconds=float("inf")))
    for number in range(3):
        next(running)
        step(torch.from_numpy(trainer.batches.batch(number).tokens))
        expected = dict(trainer.model.named_parameters())
        assert all(torch.equal(mine, expected[name]) for name, mine in model.named_parameters())
    assert trainer.diverged_steps == 0
