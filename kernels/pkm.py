"""The read of the static product-key memory (Lample et al. 2019): slow values, one softmax per head, heads summed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.kernels.product_keys import lookup, split_query


def pkm_read(query: Tensor, keys: Tensor, values: Tensor, *, topk: int = 32) -> tuple[Tensor, Tensor]:
    """query [B,T,H·dk], keys [H,2,S,dk/2], values [S²,dv] → (read [B,T,dv], slots [B,T,H·k] int64).

    Dot-product scores; differentiable in query, keys and values.
    """
    heads = keys.shape[0]
    found = lookup(split_query(query, heads), keys, topk, "dot")
    slots = found.slots.reshape(-1, heads * topk)
    weights = found.scores.softmax(-1).reshape(-1, heads * topk)
    read = F.embedding_bag(slots, values, per_sample_weights=weights, mode="sum")
    return read.view(*query.shape[:2], -1), slots.view(*query.shape[:2], -1)
