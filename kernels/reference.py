"""FwPKM as the equations say it: dense autograd over all S² slots. The oracle of every other backend.

Works on any device and in float64. Every chunk makes gradients of the size of the whole memory, which is what makes the
published implementation slow; nothing here is meant to be fast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fwpkm_eval.kernels.grad_mode import own_gradients, recordable, takes_gradient
from fwpkm_eval.kernels.product_keys import Lookup, lookup, split_query
from fwpkm_eval.kernels.types import ENTROPY_EPSILON, MemoryRule, ScanResult


def addressing_loss(found: Lookup, subkeys: int, weight: float) -> Tensor:
    """λ·Σ_m Σ_i p̄_i·log(p̄_i + 1e-8): minus the entropy of the mean sub-key distribution of each half."""
    probabilities = torch.zeros(
        *found.half_scores.shape[:-1], subkeys, dtype=found.half_scores.dtype, device=found.half_scores.device
    ).scatter(-1, found.half_indices, found.half_scores.softmax(-1))
    mean = probabilities.mean(dim=(0, 2))  # over heads and tokens: [2, S]
    return weight * (mean * torch.log(mean + ENTROPY_EPSILON)).sum()


def scan_reference(
    query: Tensor,
    target: Tensor,
    gate: Tensor | None,
    keys: Tensor,
    values: Tensor,
    rule: MemoryRule,
    chunk_size: int,
) -> ScanResult:
    """The scan over chunks (see `fwpkm_scan` for shapes), one dense autograd step per chunk."""
    # Without a gradient to keep, each chunk's graph is dropped with the chunk.
    unrolled = takes_gradient(query, target, gate, keys, values)
    with own_gradients():
        query, target, keys, values = map(recordable, (query, target, keys, values))
        gate = None if gate is None else recordable(gate)
        return _scan(query, target, gate, keys, values, rule, chunk_size, unrolled)


def _scan(
    query: Tensor,
    target: Tensor,
    gate: Tensor | None,
    keys: Tensor,
    values: Tensor,
    rule: MemoryRule,
    chunk_size: int,
    unrolled: bool,
) -> ScanResult:
    batch, tokens, _ = query.shape
    heads, _, subkeys, _ = keys.shape
    outputs, indices, weights, losses, addressing = [], [], [], [], []
    if min(tokens, chunk_size) <= rule.lookahead:  # nothing is written: what is returned is a copy all the same
        values, keys = values.clone(), keys.clone()
    for start in range(0, tokens, chunk_size):
        stop = min(start + chunk_size, tokens)
        size, written = stop - start, max(stop - start - rule.lookahead, 0)
        old_keys, old_values = keys, values
        if not old_keys.requires_grad:
            old_keys = old_keys.detach().requires_grad_()
        if not old_values.requires_grad:
            old_values = old_values.detach().requires_grad_()
        found = lookup(split_query(query[:, start:stop], heads), old_keys, rule.topk, rule.score)
        slots = found.slots.reshape(batch, size, -1)
        weight = found.scores.reshape(batch, size, -1).softmax(-1)
        read = (weight.unsqueeze(-1) * old_values[slots]).sum(-2)
        error = read[:, :written] - target[:, start + rule.lookahead : stop]
        if gate is None:
            gated = error.square()
        else:
            gated = gate[:, start : start + written, None] * error.square()

        if written:
            counts = torch.bincount(slots.flatten(), minlength=subkeys * subkeys).clamp_min(1)
            scale = rule.learning_rate * heads * rule.topk * size / written
            (step,) = torch.autograd.grad(0.5 * gated.sum(), old_values, create_graph=unrolled, retain_graph=True)
            values = old_values - scale * step / counts.unsqueeze(-1)
        if rule.addressing == "entropy":
            loss = addressing_loss(found, subkeys, rule.addressing_weight)
            addressing.append(loss.detach())
            (step,) = torch.autograd.grad(loss, old_keys, create_graph=unrolled, retain_graph=True)
            keys = old_keys - rule.learning_rate * step
        elif written:
            (step,) = torch.autograd.grad(0.5 * gated.mean(), old_keys, create_graph=unrolled, retain_graph=True)
            keys = old_keys - rule.learning_rate * step
        if not unrolled:
            read, keys, values, weight = read.detach(), keys.detach(), values.detach(), weight.detach()
        outputs.append(read)
        indices.append(slots.view(batch, size, heads, rule.topk))
        weights.append(weight.view(batch, size, heads, rule.topk))
        losses.append(gated.mean(-1).detach())
    return ScanResult(
        output=torch.cat(outputs, 1),
        keys=keys,
        values=values,
        indices=torch.cat(indices, 1),
        weights=torch.cat(weights, 1).detach(),
        memory_loss=torch.cat(losses, 1),
        addressing_loss=torch.stack(addressing).mean() if addressing else None,
    )
