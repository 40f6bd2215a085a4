"""Product-key lookup as written (Lample et al. 2019, arXiv 1907.05242, section 3): differentiable, any dtype.

The reference scan and the static PKM layer read through this; the sparse scan has its own, without autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fwpkm_eval.kernels.types import IDW_EPSILON, Score


class Lookup(NamedTuple):
    """One lookup of n queries.

    slots [n,H,k] int64; scores [n,H,k]: the k best pair sums, descending; half_indices, half_scores [H,2,n,k]: the
    top-k of each half before they are paired.
    """

    slots: Tensor
    scores: Tensor
    half_indices: Tensor
    half_scores: Tensor


def split_query(query: Tensor, heads: int) -> Tensor:
    """[…, H·dk] → [H, 2, n, dk/2], n the product of the leading dimensions."""
    flat = query.reshape(-1, heads, 2, query.shape[-1] // (2 * heads))
    return flat.permute(1, 2, 0, 3)


def half_scores(query: Tensor, keys: Tensor, score: Score) -> Tensor:
    """Scores of every sub-key: query [H,2,n,d], keys [H,2,S,d] → [H,2,n,S]."""
    dots = query @ keys.transpose(-1, -2)
    if score == "dot":
        return dots
    squared = query.square().sum(-1, keepdim=True) + keys.square().sum(-1).unsqueeze(-2) - 2 * dots
    return -torch.log(IDW_EPSILON + squared.clamp_min(0))


def lookup(query: Tensor, keys: Tensor, topk: int, score: Score) -> Lookup:
    """The k best slots of each query and head: query [H,2,n,d], keys [H,2,S,d]."""
    subkeys = keys.shape[2]
    best, index = half_scores(query, keys, score).topk(topk, dim=-1)
    pairs = best[:, 0].unsqueeze(-1) + best[:, 1].unsqueeze(-2)  # [H,n,k,k]
    scores, flat = pairs.flatten(-2).topk(topk, dim=-1)
    first = index[:, 0].gather(-1, flat // topk)
    second = index[:, 1].gather(-1, flat % topk)
    slots = first * subkeys + second
    return Lookup(slots.transpose(0, 1), scores.transpose(0, 1), index, best)
