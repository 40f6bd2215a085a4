"""The gradient of the step on the keys, and of the lookup's scores to the query, in Triton (forms as in
`triton_addressing`)."""

from __future__ import annotations

import triton
import triton.language as tl

from fwpkm_eval.kernels.triton_topk import token_rows


@triton.jit
def key_step_backward_kernel(
    numbers,
    scores,
    shares,
    ds,
    query,
    keys,
    d_keys,
    slope_out,
    centred_out,
    d_query,
    tokens,
    chunk,
    stride_b,
    stride_t,
    d_stride_b,
    d_stride_t,
    RATE: tl.constexpr,
    WIDTH: tl.constexpr,
    TOPK: tl.constexpr,
    PADDED_K: tl.constexpr,
    IDW: tl.constexpr,
    ENTROPY: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What the step K ← K − RATE·Σ ds·∂s/∂K sends back to ds [H,2,n,k] (slope) and to the query.

    ENTROPY: also p·(slope − Σ p·slope), whose mean by sub-key goes back through p̄.
    """
    DTYPE: tl.constexpr = scores.dtype.element_ty
    half = tl.program_id(1)
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    ranks = tl.arange(0, PADDED_K)
    selected = (token < tokens)[:, None] & (ranks < TOPK)[None, :]
    place = (half.to(tl.int64) * tokens + token)[:, None] * TOPK + ranks[None, :]
    number = tl.load(numbers + place, selected, 0)
    c = tl.load(ds + place, selected, 0)
    if IDW:
        raised = -2 * tl.exp(tl.load(scores + place, selected, 0))
        c *= raised
    slope = tl.full([BLOCK_T, PADDED_K], 0, DTYPE)
    rows = token_rows(query, token, chunk, stride_b, stride_t) + half * WIDTH
    d_rows = token_rows(d_query, token, chunk, d_stride_b, d_stride_t) + half * WIDTH
    for at in range(0, WIDTH, BLOCK_D):
        d = at + tl.arange(0, BLOCK_D)
        cells = (token < tokens)[:, None] & (d < WIDTH)[None, :]
        q = tl.load(rows[:, None] + d[None, :], cells, 0).to(DTYPE)
        moved = tl.full([BLOCK_T, BLOCK_D], 0, DTYPE)
        for rank in range(TOPK):
            row = tl.sum(tl.where(ranks[None, :] == rank, number, 0), 1).to(tl.int64)[:, None] * WIDTH + d[None, :]
            pulled = tl.load(d_keys + row, cells, 0)
            moved += tl.sum(tl.where(ranks[None, :] == rank, c, 0), 1)[:, None] * pulled
            if IDW:
                along = tl.sum(pulled * (tl.load(keys + row, cells, 0) - q), 1)
            else:
                along = tl.sum(pulled * q, 1)
            slope += tl.where(ranks[None, :] == rank, along[:, None], 0)
        if IDW:
            moved = -moved
        tl.store(d_rows[:, None] + d[None, :], -RATE * moved, cells)
    slope *= -RATE
    if IDW:
        slope *= raised
    tl.store(slope_out + place, slope, selected)
    if ENTROPY:
        p = tl.load(shares + place, selected, 0)
        tl.store(centred_out + place, p * (slope - tl.sum(p * slope, 1)[:, None]), selected)


@triton.jit
def query_backward_kernel(
    numbers,
    scores,
    shares,
    first,
    second,
    ds_pairs,
    ds_step,
    step_slope,
    mean_slope,
    through,
    query,
    keys,
    ds_out,
    d_query,
    tokens,
    chunk,
    stride_b,
    stride_t,
    d_stride_b,
    d_stride_t,
    subkeys,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    TOPK: tl.constexpr,
    PADDED_K: tl.constexpr,
    IDW: tl.constexpr,
    STEP: tl.constexpr,
    ENTROPY: tl.constexpr,
    QUERY: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """∂/∂(pair scores) → ∂/∂(sub-scores) [H,2,n,k], and (QUERY) from there to the query.

    STEP: adds what the key step sent back (its slope, and to the query, where it stands already); ENTROPY: also
    through the softmax p of the addressing loss.
    """
    DTYPE: tl.constexpr = scores.dtype.element_ty
    half = tl.program_id(1)
    head = half // 2
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    live = token < tokens
    ranks = tl.arange(0, PADDED_K)
    selected = live[:, None] & (ranks < TOPK)[None, :]
    place = (half.to(tl.int64) * tokens + token)[:, None] * TOPK + ranks[None, :]
    pairs = (head.to(tl.int64) * tokens + token) * TOPK
    ds = tl.full([BLOCK_T, PADDED_K], 0, DTYPE)
    for rank in range(TOPK):
        upper = tl.load(first + pairs + rank, live, 0)
        lower = tl.load(second + pairs + rank, live, 0)
        its = tl.where(half % 2 == 0, upper, lower)
        slope = tl.load(ds_pairs + token.to(tl.int64) * (HEADS * TOPK) + head * TOPK + rank, live, 0)
        ds += tl.where(ranks[None, :] == its[:, None], slope[:, None], 0)
    number = tl.load(numbers + place, selected, 0)
    if STEP:
        back = tl.load(step_slope + place, selected, 0)
        if IDW:
            ds += tl.load(ds_step + place, selected, 0) * back
        if ENTROPY:
            p = tl.load(shares + place, selected, 0)
            dp = tl.load(mean_slope + number % (2 * subkeys), selected, 0)
            pulled = back * (dp - tl.sum(p * dp, 1)[:, None]) - tl.sum(p * back, 1)[:, None] * dp
            pulled += tl.load(through + number % (2 * subkeys), selected, 0)
            ds += p * (pulled - tl.sum(p * pulled, 1)[:, None])
    tl.store(ds_out + place, ds, selected)
    if QUERY:
        c = tl.where(selected, ds, 0)
        if IDW:
            c *= -2 * tl.exp(tl.load(scores + place, selected, 0))
        rows = token_rows(query, token, chunk, stride_b, stride_t) + half * WIDTH
        d_rows = token_rows(d_query, token, chunk, d_stride_b, d_stride_t) + half * WIDTH
        for at in range(0, WIDTH, BLOCK_D):
            d = at + tl.arange(0, BLOCK_D)
            cells = live[:, None] & (d < WIDTH)[None, :]
            total = tl.full([BLOCK_T, BLOCK_D], 0, DTYPE)
            for rank in range(TOPK):
                row = tl.sum(tl.where(ranks[None, :] == rank, number, 0), 1).to(tl.int64)[:, None] * WIDTH + d[None, :]
                total += tl.sum(tl.where(ranks[None, :] == rank, c, 0), 1)[:, None] * tl.load(keys + row, cells, 0).to(
                    DTYPE
                )
            if IDW:
                q = tl.load(rows[:, None] + d[None, :], cells, 0).to(DTYPE)
                total = tl.sum(c, 1)[:, None] * q - total
            if STEP:
                total += tl.load(d_rows[:, None] + d[None, :], cells, 0)
            tl.store(d_rows[:, None] + d[None, :], total, cells)
