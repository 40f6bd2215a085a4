"""Parameter counts of a model, without building it."""

from __future__ import annotations

import math

import torch

from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import DenseLayer, FwPKMLayer, PKMLayer


def count_parameters(config: ModelConfig) -> tuple[int, int]:
    """(total, active per token): fast weights count as parameters; of S² value rows, the H·k read are active."""
    with torch.device("meta"):
        model = LanguageModel(config)
    total = sum(p.numel() for p in model.parameters())
    active = total
    for layer in model.blocks:
        if isinstance(layer.mlp, PKMLayer):
            rows, width = layer.mlp.values.shape
            active -= (rows - layer.mlp.heads * layer.mlp.topk) * width
        if isinstance(layer.memory, FwPKMLayer):
            c, keys = layer.memory.config, layer.memory.first_keys.numel()
            total += keys + c.subkeys**2 * c.value_dim
            active += keys + c.heads * c.topk * c.value_dim
        elif isinstance(layer.memory, DenseLayer):
            d = layer.memory.config
            sizes = {"in": d.input_dim, "hidden": d.hidden, "out": d.output_dim}
            dense = sum(math.prod(sizes[word] for word in words) for words in layer.memory.shapes.values())
            total, active = total + dense, active + dense
    return total, active
