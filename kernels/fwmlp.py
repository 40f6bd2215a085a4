"""`fwmlp_scan`: the dense fast-weight MLP, the published baseline in FwPKM's place.

One form for every backend: reads and steps are dense products of thousands of tokens with thousands of rows of weights,
which the vendors' libraries do at the hardware's limit; a kernel of our own would fuse only the cheap remainder.
"""

from __future__ import annotations

import math
from typing import get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.kernels.types import FwMLPScanResult, TargetRule

WEIGHT_NAMES = ("w_up", "b_up", "w_gate", "b_gate", "w_down", "b_down")


def fwmlp_scan(
    query: Tensor,
    target: Tensor,
    weights: dict[str, Tensor],
    *,
    lookahead: int = 1,
    target_rule: TargetRule = "mean",
    chunk_size: int = 512,
    learning_rate: float = 0.1,
) -> FwMLPScanResult:
    """Reads and trains a SwiGLU MLP, chunk by chunk: one SGD step per chunk on the mean squared error of its reads.

        out = W_down (W_up q + b_up ⊙ SiLU(W_gate q + b_gate)) + b_down
        W   ← W − η·∂/∂W mean_{t<C−L, features} (out_t − y_t)²

    y_t is the mean of v_t … v_{t+L} ("mean", the published baseline) or v_{t+L} ("next").

    Args:
        query: [B,T,in]. target: [B,T,out], before the lookahead shift. weights: w_up [h,in], b_up [h], w_gate [h,in],
            b_gate [h], w_down [out,h], b_down [out]; they are not changed. One memory serves all B rows.
        lookahead: L tokens. chunk_size: C tokens. learning_rate: η.

    Returns:
        `FwMLPScanResult`; output and weights are differentiable in query, target and the first weights.

    Raises:
        UserError: shapes or settings that do not fit.
    """
    _check(query, target, weights, lookahead, target_rule, chunk_size, learning_rate)
    dtype = weights["w_up"].dtype
    query, target = query.to(dtype), target.to(dtype)
    unrolled = torch.is_grad_enabled() and any(x.requires_grad for x in (query, target, *weights.values()))
    outputs, losses = [], []
    for start in range(0, query.shape[1], chunk_size):
        part = slice(start, start + chunk_size)
        with torch.enable_grad():
            weights = {n: w if w.requires_grad else w.detach().requires_grad_() for n, w in weights.items()}
            output = mlp(query[:, part], weights)
            wanted = shifted_target(target[:, part], lookahead, target_rule)
            squared = (output[:, : wanted.shape[1]] - wanted).square()
            if wanted.shape[1]:
                weights = _step(squared.mean(), weights, learning_rate, unrolled)
        if not unrolled:
            output, weights = output.detach(), {n: w.detach() for n, w in weights.items()}
        outputs.append(output)
        losses.append(squared.mean(-1).detach())
    return FwMLPScanResult(torch.cat(outputs, 1), weights, torch.cat(losses, 1))


def sgd_step(query: Tensor, wanted: Tensor, weights: dict[str, Tensor], learning_rate: float) -> dict[str, Tensor]:
    """One step on the mean squared error of query [B,m,in] against wanted [B,m,out]; returns new, detached weights."""
    with torch.enable_grad():
        current = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        loss = (mlp(query.detach(), current) - wanted.detach()).square().mean()
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


def shifted_target(target: Tensor, lookahead: int, rule: TargetRule) -> Tensor:
    """target [B,C,out] → the targets y_t of the first C − L tokens [B, max(C−L, 0), out]."""
    count = max(target.shape[1] - lookahead, 0)
    if rule == "next":
        return target[:, lookahead : lookahead + count]
    return torch.stack([target[:, ahead : ahead + count] for ahead in range(lookahead + 1)]).mean(0)


def _check(
    query: Tensor,
    target: Tensor,
    weights: dict[str, Tensor],
    lookahead: int,
    rule: str,
    chunk_size: int,
    learning_rate: float,
) -> None:
    if rule not in get_args(TargetRule):
        raise unknown("target rule", rule, list(get_args(TargetRule)))
    if lookahead < 0 or chunk_size < 1:
        raise UserError(f"lookahead {lookahead} must be at least 0 and chunk_size {chunk_size} at least 1")
    if not math.isfinite(learning_rate):
        raise UserError(f"learning_rate is {learning_rate}; it must be a finite number")
    missing = [name for name in WEIGHT_NAMES if name not in weights]
    if missing or len(weights) != len(WEIGHT_NAMES):
        raise UserError(f"weights must hold {', '.join(WEIGHT_NAMES)}; got {', '.join(weights)}")
    if query.dim() != 3 or target.dim() != 3 or query.shape[:2] != target.shape[:2] or query.shape[1] == 0:
        raise UserError(
            f"query {list(query.shape)} and target {list(target.shape)} must be [B,T,in] and [B,T,out] of the same B, T"
        )
    hidden = weights["w_up"].shape[0]
    wanted = {
        "w_up": (hidden, query.shape[2]),
        "b_up": (hidden,),
        "w_gate": (hidden, query.shape[2]),
        "b_gate": (hidden,),
        "w_down": (target.shape[2], hidden),
        "b_down": (target.shape[2],),
    }
    for name, shape in wanted.items():
        if tuple(weights[name].shape) != shape:
            raise UserError(f"{name} {list(weights[name].shape)} must be {list(shape)} for this query and target")
