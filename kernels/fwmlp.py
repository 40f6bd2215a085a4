"""`fwmlp_scan`: the dense fast-weight MLP, the published baseline in FwPKM's place.

One form for every backend: reads and steps are dense products of thousands of tokens with thousands of rows of weights,
which the vendors' libraries do at the hardware's limit; a kernel of our own would fuse only the cheap remainder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.kernels.dense import check_rule, check_sizes, own_unless_written, shifted_target
from fwpkm_eval.kernels.grad_mode import own_gradients, recordable, takes_gradient
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.types import DenseScanResult, TargetRule

SHAPES = {
    "w_up": ("hidden", "in"),
    "b_up": ("hidden",),
    "w_gate": ("hidden", "in"),
    "b_gate": ("hidden",),
    "w_down": ("out", "hidden"),
    "b_down": ("out",),
}
WEIGHT_NAMES = tuple(SHAPES)


@dataclass(frozen=True)
class FwMLPRule:
    """How a FwMLP reads and writes (a `DenseRule`): lookahead L tokens, which target y_t is, learning_rate η."""

    name: ClassVar[str] = "fwmlp"
    lookahead: int = 1
    target_rule: TargetRule = "mean"
    learning_rate: float = 0.1

    def __post_init__(self) -> None:
        check_rule(self, learning_rate=self.learning_rate)

    def read(self, query: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return mlp(query, weights)

    def step(
        self, query: Tensor, wanted: Tensor, rates: Tensor | None, weights: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """`sgd_step`; every token weighs the same."""
        return sgd_step(query, wanted, weights, self.learning_rate)


def fwmlp_scan(
    query: Tensor,
    target: Tensor,
    weights: dict[str, Tensor],
    *,
    lookahead: int = 1,
    target_rule: TargetRule = "mean",
    chunk_size: int = 512,
    learning_rate: float = 0.1,
) -> DenseScanResult:
    """Reads and trains a SwiGLU MLP, chunk by chunk: one SGD step per chunk on the mean squared error of its reads.

        out = W_down ((W_up q + b_up) ⊙ SiLU(W_gate q + b_gate)) + b_down
        W   ← W − η·∂/∂W mean_{t<C−L, features} (out_t − y_t)²

    y_t is the mean of v_t … v_{t+L} ("mean", the published baseline) or v_{t+L} ("next").

    Args:
        query: [B,T,in]. target: [B,T,out], before the lookahead shift. weights: w_up [h,in], b_up [h], w_gate [h,in],
            b_gate [h], w_down [out,h], b_down [out]; they are not changed. One memory serves all B rows.
        lookahead: L tokens. chunk_size: C tokens. learning_rate: η.

    Returns:
        `DenseScanResult`; output and weights are differentiable in query, target and the first weights.

    Raises:
        UserError: shapes or settings that do not fit.
    """
    FwMLPRule(lookahead, target_rule, learning_rate)  # refuses settings that do not fit
    check_sizes(query, target, weights, SHAPES, chunk_size)
    dtype = weights["w_up"].dtype
    query, target = query.to(dtype), target.to(dtype)
    unrolled = takes_gradient(query, target, *weights.values())
    weights = own_unless_written(weights, query.shape[1], chunk_size, lookahead)
    outputs, losses = [], []
    for start in range(0, query.shape[1], chunk_size):
        part = slice(start, start + chunk_size)
        with own_gradients(), full_precision(query.device):
            wanted = shifted_target(recordable(target[:, part]), lookahead, target_rule)
            weights = {n: recordable(w) for n, w in weights.items()}
            if wanted.shape[1]:  # or nothing is written, and they are returned as they came
                weights = {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in weights.items()}
            output = mlp(recordable(query[:, part]), weights)
            squared = (output[:, : wanted.shape[1]] - wanted).square()
            if wanted.shape[1]:
                weights = _step(squared.mean(), weights, learning_rate, unrolled)
        if not unrolled:
            output, weights = output.detach(), {n: w.detach() for n, w in weights.items()}
        outputs.append(output)
        losses.append(squared.mean(-1).detach())
    return DenseScanResult(torch.cat(outputs, 1), weights, torch.cat(losses, 1))


def sgd_step(query: Tensor, wanted: Tensor, weights: dict[str, Tensor], learning_rate: float) -> dict[str, Tensor]:
    """One step on the mean squared error of query [B,m,in] against wanted [B,m,out]; returns new, detached weights."""
    with own_gradients():
        current = {name: recordable(weight).detach().requires_grad_() for name, weight in weights.items()}
        loss = (mlp(recordable(query).detach(), current) - recordable(wanted).detach()).square().mean()
        stepped = _step(loss, current, learning_rate, unrolled=False)
    return {name: weight.detach() for name, weight in stepped.items()}


def _step(loss: Tensor, weights: dict[str, Tensor], learning_rate: float, unrolled: bool) -> dict[str, Tensor]:
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=unrolled, retain_graph=True)
    return {n: w - learning_rate * s for (n, w), s in zip(weights.items(), slopes, strict=True)}


def mlp(query: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The SwiGLU MLP itself: query [B,T,in] → [B,T,out]."""
    up = F.linear(query, weights["w_up"], weights["b_up"])
    gate = F.silu(F.linear(query, weights["w_gate"], weights["b_gate"]))
    return F.linear(up * gate, weights["w_down"], weights["b_down"])
