"""`lact_scan`: a dense fast-weight SwiGLU that is trained with Muon while it reads, as in LaCT, in FwPKM's place.

Zhang et al., "Test-Time Training Done Right" (arXiv 2505.23884): large chunks, a dot-product loss, gradients in closed
form, orthogonalised before they are added, and weights whose rows keep their norms. Left out: momentum (an option
there); the window attention beside the memory, which here is the model's own.

One form for every backend, as for `fwmlp_scan`: all of it is products of large matrices.

Shapes: B batch, T tokens, m tokens written, n = B·m; in, hidden, out as in `fwpkm_eval.kernels.dense`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.arguments import check_activations, check_tensors
from fwpkm_eval.kernels.dense import check_rule, check_sizes, own_unless_written, shifted_target
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.types import DenseScanResult, TargetRule

SHAPES = {"w_gate": ("hidden", "in"), "w_up": ("hidden", "in"), "w_down": ("out", "hidden")}
"""W1, W3 and W2 of the paper; a token's learned rates stand in this order."""
RATES = len(SHAPES)

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""a, b, c of Muon's odd polynomial a·x + b·x³ + c·x⁵ (Jordan et al. 2024, "Muon"); five steps take singular values
of 0.002 to 1 (of the matrix's Frobenius norm) to 0.68 … 1.21, not to 1 exactly."""
NEWTON_SCHULZ_STEPS = 5
_NORM_FLOOR = 1e-6
"""Lengths below count as this: a query of zeros reads zeros, and its gradient stays finite."""


@dataclass(frozen=True)
class LaCTRule:
    """How a LaCT memory reads and writes (a `DenseRule`): lookahead L tokens, and which target y_t is."""

    name: ClassVar[str] = "lact"
    lookahead: int = 1
    target_rule: TargetRule = "next"

    def __post_init__(self) -> None:
        check_rule(self)

    def read(self, query: Tensor, weights: dict[str, Tensor]) -> Tensor:
        return swiglu(unit(query), weights)

    @torch.no_grad()
    def step(
        self, query: Tensor, wanted: Tensor, rates: Tensor | None, weights: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        return muon_step(query, wanted, rates, weights)


def lact_scan(
    query: Tensor,
    target: Tensor,
    rates: Tensor | None,
    weights: dict[str, Tensor],
    *,
    lookahead: int = 1,
    target_rule: TargetRule = "next",
    chunk_size: int = 512,
) -> DenseScanResult:
    """Reads and trains a SwiGLU without biases, chunk by chunk: one Muon step per chunk on −Σ η_t·f(q_t)ᵀ y_t.

        f(q) = W_down [ SiLU(W_gate q̂) ⊙ (W_up q̂) ],  q̂ = q / ‖q‖
        G    = −∂/∂W Σ_{t<C−L} η_t·f(q_t)ᵀ y_t                        (η_t: a rate of its own for each of the three W)
        W    ← rows of (W − NewtonSchulz₅(G)), each at the norm of W's row

    All reads of a chunk see the weights before it. y_t is v_{t+L} ("next") or the mean of v_t … v_{t+L} ("mean").
    Newton–Schulz takes away the length of G: rates weigh a chunk's tokens against each other, and the same rate for all
    does nothing.

    Args:
        query: [B,T,in]. target: [B,T,out], before the lookahead shift. rates: η [B,T,3], of w_gate, w_up and w_down; or
            None, the same for all. weights: w_gate, w_up [hidden,in], w_down [out,hidden]; they are not changed. One
            memory serves all B rows. lookahead: L tokens. chunk_size: C tokens.

    Returns:
        `DenseScanResult`; output and weights are differentiable in query, target, rates and the first weights, through
        every read and write; memory_loss is −f(q_t)ᵀ y_t, without rates.

    Raises:
        UserError: shapes or settings that do not fit.
    """
    rule = LaCTRule(lookahead, target_rule)
    check_sizes(query, target, weights, SHAPES, chunk_size)
    if rates is not None:
        check_tensors(rates=rates)
        check_activations(rates=rates)
    if rates is not None and rates.shape != (*query.shape[:2], RATES):
        raise UserError(f"rates {list(rates.shape)} must be [B,T,{RATES}] = {[*query.shape[:2], RATES]}")
    dtype = weights["w_up"].dtype
    query, target = query.to(dtype), target.to(dtype)
    rates = None if rates is None else rates.to(dtype)
    weights = own_unless_written(weights, query.shape[1], chunk_size, lookahead)
    outputs, losses = [], []
    with full_precision(query.device):
        for start in range(0, query.shape[1], chunk_size):
            part = slice(start, start + chunk_size)
            output = rule.read(query[:, part], weights)
            wanted = shifted_target(target[:, part], lookahead, target_rule)
            written = slice(start, start + wanted.shape[1])
            if wanted.shape[1]:
                weights = muon_step(query[:, written], wanted, None if rates is None else rates[:, written], weights)
            outputs.append(output)
            losses.append(-(output[:, : wanted.shape[1]] * wanted).sum(-1).detach())
    return DenseScanResult(torch.cat(outputs, 1), dict(weights), torch.cat(losses, 1))


def unit(query: Tensor) -> Tensor:
    """q / ‖q‖ over features; zeros stay zeros."""
    return F.normalize(query, dim=-1, eps=_NORM_FLOOR)


def swiglu(query: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """f itself, for queries that have their length already: [B,T,in] → [B,T,out]."""
    gate = F.silu(F.linear(query, weights["w_gate"]))
    return F.linear(gate * F.linear(query, weights["w_up"]), weights["w_down"])


def muon_step(query: Tensor, wanted: Tensor, rates: Tensor | None, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """One write of query [B,m,in] with the targets wanted [B,m,out] and rates [B,m,3]: the new weights, differentiable.

    Rows keep the norms that they have, so after any number of writes they have those of the first weights.
    """
    ascents = ascent_directions(query, wanted, rates, weights)
    return {name: _at_norms_of(w, w + orthogonalised(ascents[name])) for name, w in weights.items()}


def ascent_directions(
    query: Tensor, wanted: Tensor, rates: Tensor | None, weights: dict[str, Tensor]
) -> dict[str, Tensor]:
    """−G: the gradient of Σ η_t·f(q_t)ᵀ y_t in each weight, in closed form. Shapes as in `muon_step`."""
    q, y = unit(query).flatten(0, 1), wanted.flatten(0, 1)
    gate, up = F.linear(q, weights["w_gate"]), F.linear(q, weights["w_up"])
    sigma = torch.sigmoid(gate)
    inner = gate * sigma
    d_inner = y @ weights["w_down"]
    by_token = {
        "w_gate": d_inner * up * (sigma + inner * (1 - sigma)),
        "w_up": d_inner * inner,
        "w_down": y,
    }
    if rates is not None:
        of_weight = rates.flatten(0, 1).unsqueeze(-1).unbind(1)
        by_token = {name: rate * by_token[name] for name, rate in zip(SHAPES, of_weight, strict=True)}
    return {name: slope.mT @ (inner * up if name == "w_down" else q) for name, slope in by_token.items()}


def orthogonalised(matrix: Tensor) -> Tensor:
    """U Vᵀ of the matrix's U S Vᵀ, about: Newton–Schulz on singular values, in products of the shorter side's size."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


def _at_norms_of(old: Tensor, new: Tensor) -> Tensor:
    """new with its rows at the norms of old's."""
    return F.normalize(new, dim=1) * old.norm(dim=1, keepdim=True)
