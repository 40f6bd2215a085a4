"""Inputs of a LaCT scan at any size, and the scan once more by autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.kernels.lact import NEWTON_SCHULZ

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class LaCTCase:
    """Sizes; the numbers come from a fixed seed."""

    batch: int = 2
    tokens: int = 11
    width_in: int = 4
    hidden: int = 6
    width_out: int = 3

    def inputs(
        self, dtype: torch.dtype = torch.float64, requires_grad: bool = False
    ) -> tuple[Tensor, Tensor, Tensor, Weights]:
        """query [B,T,in], target [B,T,out], rates [B,T,3] from 0.1 to 1.1, and the weights."""
        draw = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        def made(x: Tensor) -> Tensor:
            return x.to(dtype).requires_grad_(requires_grad)

        query = made(normal(self.batch, self.tokens, self.width_in))
        target = made(normal(self.batch, self.tokens, self.width_out))
        rates = made(torch.rand(self.batch, self.tokens, 3, generator=draw, dtype=torch.float64) + 0.1)
        sizes = {
            "w_gate": (self.hidden, self.width_in),
            "w_up": (self.hidden, self.width_in),
            "w_down": (self.width_out, self.hidden),
        }
        weights = {name: made(normal(*size) * size[1] ** -0.5) for name, size in sizes.items()}
        return query, target, rates, weights


def by_autograd(
    query: Tensor,
    target: Tensor,
    rates: Tensor,
    weights: Weights,
    lookahead: int,
    rule: str,
    chunk: int,
) -> tuple[Tensor, Weights]:
    """Outputs and final weights, the gradients of each chunk's loss by autograd, differentiable themselves.

    Rows are put back to the norms of the first weights, which are remembered.
    """
    norms = {name: w.square().sum(1, keepdim=True).sqrt() for name, w in weights.items()}
    w = {name: x if x.requires_grad else x.clone().requires_grad_() for name, x in weights.items()}
    outputs = []
    for start in range(0, query.shape[1], chunk):
        stop = min(start + chunk, query.shape[1])
        q = query[:, start:stop]
        q = q / q.square().sum(-1, keepdim=True).sqrt()
        read = (F.silu(q @ w["w_gate"].T) * (q @ w["w_up"].T)) @ w["w_down"].T
        outputs.append(read)
        losses = dict.fromkeys(w, torch.zeros((), dtype=query.dtype))
        for t in range(stop - start - lookahead):
            ahead = target[:, start + t : start + t + lookahead + 1]
            wanted = ahead.mean(1) if rule == "mean" else ahead[:, -1]
            agreement = (read[:, t] * wanted).sum(-1)
            for number, name in enumerate(("w_gate", "w_up", "w_down")):
                losses[name] = losses[name] - (rates[:, start + t, number] * agreement).sum()
        if stop - start <= lookahead:
            continue
        stepped = {}
        for name, loss in losses.items():
            (slope,) = torch.autograd.grad(loss, w[name], create_graph=True, retain_graph=True)
            moved = w[name] - newton_schulz(slope)
            stepped[name] = moved * norms[name] / moved.square().sum(1, keepdim=True).sqrt()
        w = stepped
    return torch.cat(outputs, 1), w


def newton_schulz(matrix: Tensor) -> Tensor:
    """Five steps, by powers of x xᵀ, whatever the matrix's shape."""
    x = matrix / matrix.square().sum().sqrt()
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        x = a * x + b * (x @ x.T @ x) + c * (x @ x.T @ x @ x.T @ x)
    return x
