"""Launches of the gradient kernels that a chunk and a plain read share: rows, pair scores, queries and keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fwpkm_eval.kernels.triton_addressing import subkey_sum_kernel
from fwpkm_eval.kernels.triton_addressing_backward import query_backward_kernel
from fwpkm_eval.kernels.triton_launch import (
    SLOT_READS,
    SUBKEY_READS,
    blocks,
    power,
    query_tile,
    slot_tile,
    subkey_tile,
    token_tile,
)
from fwpkm_eval.kernels.triton_rows_backward import add_rows_kernel, read_backward_kernel
from fwpkm_eval.kernels.triton_segments import SlotSegments, SubkeySegments
from fwpkm_eval.kernels.triton_topk import Lookups
from fwpkm_eval.kernels.triton_windows import sum_slot_windows, sum_subkey_windows


@dataclass(frozen=True)
class KeyStepBack:
    """What the step on the keys, made by the slope ds [H,2,n,k], sends back: slope [H,2,n,k] to ds itself.

    With the addressing loss also through [2,S], to p by way of p̄, and mean_slope [2,S], the loss's slope in each p.
    """

    ds: Tensor
    slope: Tensor
    mean_slope: Tensor | None
    through: Tensor | None


def launch_read_backward(
    *,
    rows: Tensor,
    positions: Tensor,
    found: Lookups,
    ds_pairs: Tensor,
    d_read: Tensor,
    d_output: Tensor | None,
    shape: tuple[int, int],
    written: int = 0,
    lookahead: int = 0,
    rate: float = 0.0,
    count: int = 1,
    per_head: bool = False,
    **written_tensors: Any,
) -> None:
    """Launches `read_backward_kernel`, in whose terms the arguments are; what is not given is not there."""
    batch, chunk = shape
    heads, tokens, topk = found.first.shape
    width = d_read.shape[-1]
    block_t, block_v = token_tile(width, heads * topk)

    def given(name: str) -> Tensor:
        x = written_tensors.get(name)
        return d_read.view(batch, chunk, -1) if x is None else x

    back = d_read.view(batch, chunk, -1) if d_output is None else d_output
    strided = [given("output"), back, given("target"), given("gate"), given("d_target"), given("d_gate")]
    read_backward_kernel[(blocks(tokens, block_t),)](
        rows,
        positions,
        found.weights,
        given("d_written"),
        given("places"),
        given("starts"),
        given("output"),
        back,
        given("target"),
        given("gate"),
        given("slope"),
        found.first,
        found.second,
        ds_pairs,
        d_read,
        given("d_target"),
        given("d_gate"),
        given("gated"),
        given("d_slope"),
        tokens,
        chunk,
        written,
        *[stride for x in strided for stride in x.stride()[:2]],
        lookahead,
        count,
        RATE=rate,
        WIDTH=width,
        HEADS=heads,
        TOPK=topk,
        PADDED_READS=power(heads * topk, 2),
        D_OUTPUT=d_output is not None,
        WRITE=written > 0,
        GATE=written_tensors.get("gate") is not None,
        SLOPE=written_tensors.get("slope") is not None,
        PER_HEAD=per_head,
        BLOCK_T=block_t,
        BLOCK_V=block_v,
        num_warps=4,
    )


def add_rows(
    table: Tensor,
    places: Tensor,
    by_slot: SlotSegments,
    weights: Tensor,
    per_token: Tensor,
    more_weights: Tensor | None = None,
    more_per_token: Tensor | None = None,
) -> None:
    """table[places[u]] += Σ over the reads of slot u of w·x, and of the second w·x if given; x [n,dv]."""
    groups, width = len(by_slot.slots), table.shape[1]
    block_u, block_v = slot_tile(width)
    sums, window = sum_slot_windows(per_token, weights, by_slot)
    more_sums = sums
    if more_weights is not None and more_per_token is not None:
        more_sums, _ = sum_slot_windows(more_per_token, more_weights, by_slot)
    add_rows_kernel[(blocks(groups, block_u), blocks(width, block_v))](
        table,
        places,
        by_slot.starts,
        by_slot.order,
        weights,
        per_token,
        sums,
        weights if more_weights is None else more_weights,
        per_token if more_per_token is None else more_per_token,
        more_sums,
        groups,
        READS=weights.shape[1],
        WIDTH=width,
        WINDOW=window,
        MORE=more_weights is not None,
        BLOCK_U=block_u,
        BLOCK_R=SLOT_READS,
        BLOCK_V=block_v,
        num_warps=4,
    )


def scores_back(
    found: Lookups,
    ds_pairs: Tensor,
    query: Tensor,
    keys: Tensor,
    score: str,
    d_query: Tensor | None,
    keys_back: KeyStepBack | None = None,
) -> Tensor:
    """∂/∂(pair scores) [n,H·k] → ∂/∂(sub-scores) [H,2,n,k]; with d_query [B,C,H·dk], the query's gradient goes there.

    With keys_back, what the key step sent back to scores is added, and d_query holds its part already.
    """
    heads, _, subkeys, width = keys.shape
    topk = found.first.shape[2]
    ds = torch.empty_like(found.scores)
    block_t, block_d = query_tile(width)
    into = query if d_query is None else d_query
    query_backward_kernel[(blocks(found.first.shape[1], block_t), heads * 2)](
        found.numbers,
        found.scores,
        found.shares,
        found.first,
        found.second,
        ds_pairs,
        ds if keys_back is None else keys_back.ds,
        ds if keys_back is None else keys_back.slope,
        ds if keys_back is None or keys_back.mean_slope is None else keys_back.mean_slope,
        ds if keys_back is None or keys_back.through is None else keys_back.through,
        query,
        keys,
        ds,
        into,
        found.first.shape[1],
        query.shape[1],
        query.stride(0),
        query.stride(1),
        into.stride(0),
        into.stride(1),
        subkeys,
        WIDTH=width,
        HEADS=heads,
        TOPK=topk,
        PADDED_K=power(topk, 2),
        IDW=score == "idw",
        STEP=keys_back is not None,
        ENTROPY=keys_back is not None and keys_back.through is not None,
        QUERY=d_query is not None,
        BLOCK_T=block_t,
        BLOCK_D=block_d,
        num_warps=4,
    )
    return ds


def move_keys(
    found: Lookups,
    by_subkey: SubkeySegments,
    ds: Tensor,
    query: Tensor,
    keys: Tensor,
    base: Tensor,
    out: Tensor,
    score: str,
    rate: float,
    step_ds: Tensor | None = None,
    step_rate: float = 0.0,
) -> Tensor:
    """out = base + rate·Σ ds·∂s/∂K [+ step_rate·(Σ c of step_ds)·base, idw]; out may be base, or keys, in place."""
    heads, _, subkeys, width = keys.shape
    groups = heads * 2 * subkeys
    block_g, block_d = subkey_tile(width)
    sums, own, step_own, window = sum_subkey_windows(found, by_subkey, ds, query, keys, score == "idw", step_ds)
    subkey_sum_kernel[(blocks(groups, block_g), blocks(width, block_d))](
        by_subkey.order,
        by_subkey.starts,
        ds,
        found.scores,
        ds if step_ds is None else step_ds,
        query,
        keys,
        base,
        out,
        sums,
        own,
        step_own,
        found.first.shape[1],
        query.shape[1],
        query.stride(0),
        query.stride(1),
        subkeys,
        groups,
        RATE=rate,
        STEP_RATE=step_rate,
        WIDTH=width,
        TOPK=found.first.shape[2],
        IDW=score == "idw",
        STEP=step_ds is not None and score == "idw",
        WINDOW=window,
        BLOCK_G=block_g,
        BLOCK_R=SUBKEY_READS,
        BLOCK_D=block_d,
        num_warps=4,
    )
    return out
