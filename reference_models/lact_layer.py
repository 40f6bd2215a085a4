"""The LaCT layer: a dense memory trained with Muon, in the layer that FwPKM and FwMLP have."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from fwpkm_eval.kernels.lact import RATES, SHAPES, lact_scan
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.stream import DenseMemory
from fwpkm_eval.reference_models.config import ModelConfig
from fwpkm_eval.reference_models.memory_layers import DenseLayer, MemoryState
from fwpkm_eval.reference_models.norms import RMSNorm


class LaCTLayer(DenseLayer):
    """Dense test-time training (Zhang et al., arXiv 2505.23884) in FwPKM's place.

    Not the gate but η = softplus(Linear_r(RMSNorm_r(h))), a rate for each of the three weights, weighs a token's write;
    the bias of Linear_r starts where η is the base rate.
    """

    shapes = SHAPES

    def __init__(self, model: ModelConfig, number: int) -> None:
        config, back = model.lact, model.backbone
        super().__init__(config, model, number, config.input_dim, config.output_dim)
        self.config = config
        self.base_rate, self.read_norm = config.base_rate, config.read_norm
        self.r_norm = RMSNorm(back.hidden, back.norm_eps)
        self.r_proj = nn.Linear(back.hidden, RATES)

    def init_weights(self, std: float) -> None:
        super().init_weights(std)
        nn.init.normal_(self.r_proj.weight, std=std)
        nn.init.constant_(self.r_proj.bias, math.log(math.expm1(self.base_rate)))

    def write_weight(self, x: Tensor, gate: Tensor) -> Tensor | None:
        return F.softplus(self.r_proj(self.r_norm(x)).float())

    def scan(self, state: MemoryState, q: Tensor, v: Tensor, weigh: Tensor | None, chunk_size: int) -> Tensor:
        memory = state.memory
        assert isinstance(memory, DenseMemory)
        result = lact_scan(q.float(), v, weigh, memory.weights, **vars(memory.rule), chunk_size=chunk_size)
        return self.keep(memory, result, chunk_size)

    def output(self, x: Tensor, read: Tensor, target: Tensor, gate: Tensor | None) -> Tensor:
        if self.read_norm:
            with full_precision(x.device):
                # Not an RMSNorm with its epsilon: first reads are far shorter than one, and are to be heard, too.
                read = F.normalize(read, dim=-1, eps=1e-6) * read.shape[-1] ** 0.5
        return super().output(x, read, target, gate)
