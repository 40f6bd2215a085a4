"""The read of the static product-key memory (Lample et al. 2019): slow values, one softmax per head, heads summed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fwpkm_eval.kernels.backends import resolve_backend
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.product_keys import lookup, split_query


def pkm_read(
    query: Tensor, keys: Tensor, values: Tensor, *, topk: int = 32, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """query [B,T,H·dk], keys [H,2,S,dk/2], values [S²,dv] → (read [B,T,dv], slots [B,T,H·k] int64).

    Dot-product scores; differentiable in query, keys and values. backend: "auto", "torch" (as "reference": the lookup
    as written, then one sparse sum) or "triton". The lookup runs in float32 (float64 if the inputs are) whatever the
    dtype of the activations; values are taken as they are.

    Raises:
        UserError: a backend that cannot run here.
    """
    if resolve_backend(backend, query.device) == "triton":
        from fwpkm_eval.kernels.triton_read import pkm_read_triton

        return pkm_read_triton(query, keys, values, topk)
    heads = keys.shape[0]
    wide = torch.promote_types(torch.promote_types(query.dtype, keys.dtype), torch.float32)
    with full_precision(query.device):
        found = lookup(split_query(query.to(wide), heads), keys.to(wide), topk, "dot")
        slots = found.slots.reshape(-1, heads * topk)
        weights = found.scores.softmax(-1).reshape(-1, heads * topk).to(values.dtype)
        read = F.embedding_bag(slots, values, per_sample_weights=weights, mode="sum")
    read = read.to(torch.promote_types(query.dtype, values.dtype))
    return read.view(*query.shape[:2], -1), slots.view(*query.shape[:2], -1)
