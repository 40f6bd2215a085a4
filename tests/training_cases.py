"""Text and models that train in a second, shared by the tests of the training engine."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from model_cases import SIZES

from fwpkm_eval.reference_models.config import ModelConfig, model_config
from fwpkm_eval.training.recipe import Recipe
from fwpkm_eval.training.trainer import StepReport, Trainer

TINY = Recipe(
    steps=6,
    tokens=96,
    warmup=2,
    needle_share=0.8,
    dense_share=1.0,
    document_pieces=3,
    chunks=(16, 32),
    sets=("words",),
)

NEVER, ALWAYS = 1e9, -1.0
"""Seconds between save points."""


def write_words(folder: Path, seed: int = 0) -> str:
    """A set of four documents, each of its own words (some not ASCII); returns the folder as --data."""
    chooser = random.Random(seed)
    (folder / "words").mkdir(parents=True, exist_ok=True)
    with (folder / "words" / "train.jsonl").open("w", encoding="utf-8") as handle:
        for number in range(4):
            words = ["".join(chooser.choices("abcdefghijklmnoprstué", k=4)) for _ in range(30)]
            text = f"document {number}: " + " ".join(chooser.choices(words, k=1500))
            handle.write(json.dumps({"text": text}) + "\n")
    return str(folder)


def tiny_training_config(spec: str, **changes: Any) -> ModelConfig:
    sizes = {**SIZES, "backbone.vocab_size": 257, "backbone.init_std": 0.08, "backbone.embedding_std": 0.1}
    return model_config(spec, "micro", **{**sizes, "backbone.layers": 2, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(trainer: Trainer, steps: int | None = None, save_every_seconds: float = NEVER) -> list[StepReport]:
    """Trains, to the end or until it is killed after some steps."""
    reports: list[StepReport] = []
    running = trainer.run(save_every_seconds)
    for report in running:
        reports.append(report)
        if len(reports) == steps:
            break
    return reports
