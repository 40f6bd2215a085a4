"""The gradient of one chunk in Triton: six launches (of a long chunk nine), no sort, nothing that waits for the device.

In this order: what the key step sends back (to its slope and to the query), its mean through p̄; per token, errors and
reads back to the pair scores; per slot, the rows; then pair scores to the query, and by sub-key to the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fwpkm_eval.kernels.chunk import ChunkGradient, ChunkInputs, ChunkStep, TouchedRows
from fwpkm_eval.kernels.triton_addressing import subkey_mean_kernel
from fwpkm_eval.kernels.triton_addressing_backward import key_step_backward_kernel
from fwpkm_eval.kernels.triton_gradients import KeyStepBack, add_rows, launch_read_backward, move_keys, scores_back
from fwpkm_eval.kernels.triton_launch import blocks, dense_rows, mean_tile, on_device, power, query_tile
from fwpkm_eval.kernels.triton_segments import SlotSegments, SubkeySegments
from fwpkm_eval.kernels.triton_topk import Lookups
from fwpkm_eval.kernels.types import ENTROPY_EPSILON, MemoryRule


@dataclass(frozen=True)
class Saved:
    """What the gradient of a chunk needs.

    old_rows [rows,dv]: V's rows before the write, by group of `by_slot`. ds [H,2,n,k]: the slope that moved the keys,
    None if they did not move. mean, slope [2,S]: p̄ and the slope of the addressing loss in each token's p; None
    without that loss.
    """

    found: Lookups
    by_slot: SlotSegments
    by_subkey: SubkeySegments
    old_rows: Tensor
    ds: Tensor | None
    mean: Tensor | None
    slope: Tensor | None


@dataclass(frozen=True)
class ReadsBack:
    """ds_pairs [n,H·k]: ∂/∂(pair scores); d_read [n,dv]: of v̂; gated [n,dv], d_slope [n,H·k]: the rows' other term."""

    ds_pairs: Tensor
    d_read: Tensor
    gated: Tensor | None
    d_slope: Tensor | None


def step_chunk_backward(
    inputs: ChunkInputs,
    step: ChunkStep,
    keys: Tensor,
    output: Tensor,
    d_output: Tensor | None,
    d_keys: Tensor,
    rows: TouchedRows,
    into: ChunkGradient,
) -> Tensor:
    """The exact gradient of `step_chunk` (see `ChunkOps`)."""
    saved: Saved | None = step.saved
    assert saved is not None, "the step was made without its log"
    with on_device(keys):
        query, d_keys = dense_rows(inputs.query), d_keys.contiguous()
        d_output = None if d_output is None else dense_rows(d_output)
        keys_back = None
        if saved.ds is not None:
            keys_back = _key_step_back(saved, saved.ds, query, keys, d_keys, inputs.rule, into.query)
        places = torch.searchsorted(rows.slots, saved.by_slot.slots)
        reads_back = _reads_back(inputs, saved, keys_back, output, d_output, rows.gradient, places, into)
        add_rows(
            rows.gradient, places, saved.by_slot, saved.found.weights, reads_back.d_read,
            reads_back.d_slope, reads_back.gated,
        )  # fmt: skip
        d_half = scores_back(saved.found, reads_back.ds_pairs, query, keys, inputs.rule.score, into.query, keys_back)
        # Beside the scores' part, the key step's own (Σ c)·K sends −η·(Σ c)·dK back to K (idw).
        return move_keys(
            saved.found,
            saved.by_subkey,
            d_half,
            query,
            keys,
            d_keys,
            torch.empty_like(d_keys),
            inputs.rule.score,
            1.0,
            saved.ds,
            -inputs.rule.learning_rate,
        )


def _key_step_back(
    saved: Saved, ds: Tensor, query: Tensor, keys: Tensor, d_keys: Tensor, rule: MemoryRule, d_query: Tensor
) -> KeyStepBack:
    """Also writes the key step's part of the query's gradient into d_query."""
    found = saved.found
    heads, _, subkeys, width = keys.shape
    tokens = found.first.shape[1]
    slope = torch.empty_like(ds)
    centred = torch.empty_like(ds) if saved.mean is not None else slope
    block_t, block_d = query_tile(width)
    key_step_backward_kernel[(blocks(tokens, block_t), heads * 2)](
        found.numbers,
        found.scores,
        found.shares,
        ds,
        query,
        keys,
        d_keys,
        slope,
        centred,
        d_query,
        tokens,
        query.shape[1],
        query.stride(0),
        query.stride(1),
        d_query.stride(0),
        d_query.stride(1),
        RATE=rule.learning_rate,
        WIDTH=width,
        TOPK=rule.topk,
        PADDED_K=power(rule.topk, 2),
        IDW=rule.score == "idw",
        ENTROPY=saved.mean is not None,
        BLOCK_T=block_t,
        BLOCK_D=block_d,
        num_warps=4,
    )
    if saved.mean is None:
        return KeyStepBack(ds, slope, None, None)
    through = torch.empty_like(saved.mean)
    block_g, block_r = mean_tile(tokens)
    subkey_mean_kernel[(blocks(2 * subkeys, block_g),)](
        saved.by_subkey.order,
        saved.by_subkey.starts,
        centred,
        saved.mean,
        through,
        through,
        through,
        subkeys,
        tokens * heads,
        WEIGHT=rule.addressing_weight,
        DELTA=ENTROPY_EPSILON,
        HEADS=heads,
        BACKWARD=True,
        BLOCK_G=block_g,
        BLOCK_R=block_r,
        num_warps=4,
    )
    return KeyStepBack(ds, slope, saved.slope, through)


def _reads_back(
    inputs: ChunkInputs,
    saved: Saved,
    keys_back: KeyStepBack | None,
    output: Tensor,
    d_output: Tensor | None,
    d_written: Tensor,
    places: Tensor,
    into: ChunkGradient,
) -> ReadsBack:
    """Also writes the gradients of target and gate."""
    batch, chunk, width = output.shape
    written = inputs.written
    slope = keys_back.slope if keys_back is not None and saved.mean is None else None
    found = saved.found
    d_read = output.new_empty(batch * chunk, width)
    ds_pairs = torch.empty_like(found.weights)
    gated = torch.empty_like(d_read) if slope is not None else None
    d_slope = torch.empty_like(ds_pairs) if slope is not None else None
    launch_read_backward(
        rows=saved.old_rows,
        positions=saved.by_slot.positions,
        found=found,
        ds_pairs=ds_pairs,
        d_read=d_read,
        d_output=d_output,
        shape=(batch, chunk),
        written=written,
        lookahead=inputs.rule.lookahead,
        rate=inputs.rule.learning_rate * found.slots.shape[1],
        count=max(1, batch * written * width),
        d_written=d_written,
        places=places,
        starts=saved.by_slot.starts,
        output=output,
        target=dense_rows(inputs.target),
        gate=inputs.gate,
        slope=slope,
        d_target=into.target,
        d_gate=into.gate,
        gated=gated,
        d_slope=d_slope,
    )
    return ReadsBack(ds_pairs, d_read, gated, d_slope)
