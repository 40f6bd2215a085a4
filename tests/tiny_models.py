"""Checkpoints of untrained models that are small enough to be measured in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fwpkm_eval.reference_models.checkpoint import save_checkpoint
from fwpkm_eval.reference_models.config import ModelConfig, model_config
from fwpkm_eval.reference_models.language_model import LanguageModel

SIZES = {
    "backbone.layers": 2,
    "backbone.hidden": 16,
    "backbone.mlp_hidden": 32,
    "backbone.heads": 2,
    "backbone.kv_heads": 1,
    "backbone.head_dim": 8,
    "backbone.window": 16,
    "backbone.gdn_heads": 1,
    "backbone.gdn_head_dim": 16,
    "fwpkm.subkeys": 16,
    "fwpkm.key_dim": 16,
    "fwpkm.value_dim": 16,
    "pkm.subkeys": 16,
    "pkm.key_dim": 16,
    "pkm.value_dim": 16,
    "fwmlp.input_dim": 16,
    "fwmlp.hidden": 32,
    "fwmlp.output_dim": 16,
    "lact.input_dim": 16,
    "lact.hidden": 32,
    "lact.output_dim": 16,
    "chunk_size": 64,
}


def tiny_config(name: str, **changes: Any) -> ModelConfig:
    return model_config(name, "micro", **(SIZES | changes))


def tiny_model(name: str, seed: int = 0, **changes: Any) -> LanguageModel:
    return LanguageModel(tiny_config(name, **changes), seed)


def tiny_checkpoint(name: str, folder: Path, seed: int = 0, **changes: Any) -> Path:
    """The folder, with the checkpoint in it."""
    save_checkpoint(tiny_model(name, seed, **changes), folder, {})
    return folder
