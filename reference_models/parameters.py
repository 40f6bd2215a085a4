"""Parameter counts of a model, without building it."""

from __future__ import annotations

import torch

from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.lact_layer import LaCTLayer
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FwMLPLayer, FwPKMLayer, PKMLayer


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
        elif isinstance(layer.memory, FwMLPLayer):
            f = layer.memory.config
            dense = 2 * f.hidden * (f.input_dim + 1) + f.output_dim * (f.hidden + 1)
            total, active = total + dense, active + dense
        elif isinstance(layer.memory, LaCTLayer):
            m = layer.memory.config
            dense = m.hidden * (2 * m.input_dim + m.output_dim)
            total, active = total + dense, active + dense
    return total, active
