"""A product-key read in Triton with its gradient: the static memory's (PKM), and a stream's.

The gradient of the values is made from the rows that were read, each summed in a fixed order: large k·H (4 × 32) costs
rows, not S². Only the buffer that autograd is handed has the size of the values, as their optimiser needs it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.kernels.grad_mode import first_gradient_only, takes_gradient
from fwpkm_eval.kernels.triton_gradients import add_rows, launch_read_backward, move_keys, scores_back
from fwpkm_eval.kernels.triton_launch import blocks, dense_rows, on_device, power, token_tile
from fwpkm_eval.kernels.triton_rows import read_kernel
from fwpkm_eval.kernels.triton_segments import group_by_slot, group_by_subkey
from fwpkm_eval.kernels.triton_topk import Lookups, find_slots
from fwpkm_eval.kernels.types import MemoryRule


class _Read(torch.autograd.Function):
    """(query [B,C,H·dk], keys [H,2,S,d], values [S²,dv]) → (v̂ [B,C,dv], slots int32, weights [n,H·k]).

    log: whether a gradient is taken, for which the inputs and what was found are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, keys: Tensor, values: Tensor, topk: int, score: str, per_head: bool, log: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        query, keys, values = dense_rows(query), keys.contiguous(), values.contiguous()
        with on_device(values):
            found = find_slots(query, keys, topk, score, per_head)
            output = gather(values, found.slots, found.weights).view(*query.shape[:2], -1)
        ctx.mark_non_differentiable(found.slots, found.weights)
        ctx.set_materialize_grads(False)
        if log:
            # All of it is saved the official way, so that activation checkpointing can drop it and the end of backward
            # frees it: at k·H = 128 the lookups are 5 KB a token.
            ctx.save_for_backward(query, keys, values, *(getattr(found, part.name) for part in fields(found)))
            ctx.score, ctx.per_head = score, per_head
        return output, found.slots, found.weights

    @staticmethod
    @first_gradient_only
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        query, keys, values, *lookups = ctx.saved_tensors
        found = Lookups(*lookups)
        if grads[0] is None:
            return (None,) * 7
        d_output = dense_rows(grads[0])
        d_query, d_keys, d_values = None, None, None
        with on_device(values):
            ds_pairs = torch.empty_like(found.weights)
            d_read = found.weights.new_empty(found.slots.shape[0], values.shape[1])
            launch_read_backward(
                rows=values,
                positions=found.slots,
                found=found,
                ds_pairs=ds_pairs,
                d_read=d_read,
                d_output=d_output,
                shape=(query.shape[0], query.shape[1]),
                per_head=ctx.per_head,
            )
            if ctx.needs_input_grad[2]:
                by_slot = group_by_slot(found.slots, len(values))
                d_values = torch.zeros_like(values)
                add_rows(d_values, by_slot.slots, by_slot, found.weights, d_read)
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                d_query = torch.empty_like(query, memory_format=torch.contiguous_format)
                d_half = scores_back(found, ds_pairs, query, keys, ctx.score, d_query)
                if ctx.needs_input_grad[1]:
                    by_subkey = group_by_subkey(found.numbers, keys.shape[2])
                    zero = torch.zeros_like(keys)
                    d_keys = move_keys(found, by_subkey, d_half, query, keys, zero, zero, ctx.score, 1.0)
        return d_query, d_keys, d_values, None, None, None, None


def gather(values: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
    """Σ w·V[slot] for every token: values [S²,dv], slots and weights [n,R] → [n,dv] in the dtype of the weights."""
    tokens, reads = weights.shape
    width = values.shape[1]
    output = weights.new_empty(tokens, width)
    block_t, block_v = token_tile(width, reads)
    unused = [output] * 5
    read_kernel[(blocks(tokens, block_t),)](
        values,
        slots,
        weights,
        output,
        *unused,
        tokens,
        tokens,
        0,
        0,
        output.stride(0),
        *[0] * 5,
        1,
        WIDTH=width,
        HEADS=1,
        TOPK=reads,
        PADDED_READS=power(reads, 2),
        STORE=True,
        TARGET=False,
        GATE=False,
        SLOPE=False,
        BLOCK_T=block_t,
        BLOCK_V=block_v,
        num_warps=4,
    )
    return output


def read_memory(query: Tensor, keys: Tensor, values: Tensor, rule: MemoryRule) -> tuple[Tensor, Tensor, Tensor]:
    """query [B,C,H·dk] → (v̂ [B,C,dv], slots, weights [n,H·k]) (see `ChunkOps`)."""
    log = takes_gradient(query, keys, values)
    output, slots, weights = _Read.apply(query, keys, values, rule.topk, rule.score, False, log)
    return output, slots, weights


def pkm_read_triton(query: Tensor, keys: Tensor, values: Tensor, topk: int) -> tuple[Tensor, Tensor]:
    """The static memory's read: dot scores, one softmax for each head (see `pkm_read`); slots [B,T,H·k] int64.

    The lookup runs in float32 (float64 if the inputs are) whatever the dtype of the activations; values are taken as
    they are.
    """
    wide = torch.promote_types(torch.promote_types(query.dtype, keys.dtype), torch.float32)
    log = takes_gradient(query, keys, values)
    output, slots, _ = _Read.apply(query.to(wide), keys.to(wide), values, topk, "dot", True, log)
    return output.to(torch.promote_types(query.dtype, values.dtype)), slots.view(*query.shape[:2], -1).long()
