"""The read of the static product-key memory (Lample et al. 2019): slow values, one softmax per head, heads summed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.kernels.backends import resolve_backend
from fwpkm_eval.kernels.product_keys import lookup, split_query


def pkm_read(
    query: Tensor, keys: Tensor, values: Tensor, *, topk: int = 32, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """query [B,T,H·dk], keys [H,2,S,dk/2], values [S²,dv] → (read [B,T,dv], slots [B,T,H·k] int64).

    Dot-product scores; differentiable in query, keys and values. backend: "auto", "torch" (as "reference": the lookup
    as written, then one sparse sum) or "triton".

    Raises:
        UserError: a backend that cannot run here.
    """
    if resolve_backend(backend, query.device) == "triton":
        from fwpkm_eval.kernels.triton_read import pkm_read_triton

        return pkm_read_triton(query, keys, values, topk)
    heads = keys.shape[0]
    found = lookup(split_query(query, heads), keys, topk, "dot")
    slots = found.slots.reshape(-1, heads * topk)
    weights = found.scores.softmax(-1).reshape(-1, heads * topk)
    read = F.embedding_bag(slots, values, per_sample_weights=weights, mode="sum")
    return read.view(*query.shape[:2], -1), slots.view(*query.shape[:2], -1)
