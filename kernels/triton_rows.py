"""The read of V's rows and the row-aggregated write in Triton; nothing of V's size is made.

Per token, one program gathers its H·k rows; per slot, one program sums over the reads of that slot, in their order.
With R a token's rows, w its weights, e = g·(v̂ − y) and N_u the reads of slot u:

    read    v̂_t = Σ_r w_tr·R_r            write    R_u ← R_u − η·H·k·C/(C−L)/N_u · Σ_{t,r: slot u} w_tr·e_t
"""

from __future__ import annotations

import triton
import triton.language as tl

from fwpkm_eval.kernels.triton_topk import token_rows
from fwpkm_eval.kernels.triton_windows import split_group


@triton.jit
def softmax_slope(weights, slopes, reads, HEADS: tl.constexpr, TOPK: tl.constexpr, PER_HEAD: tl.constexpr):
    """w·(dw − Σ w·dw) of [T,R] tiles; the sum over the reads of each head, or over all."""
    product = weights * slopes
    if PER_HEAD:
        mean = tl.zeros_like(product)
        for head in range(HEADS):
            own = (reads // TOPK == head)[None, :]
            mean = tl.where(own, tl.sum(tl.where(own, product, 0), 1)[:, None], mean)
        return weights * (slopes - mean)
    return weights * (slopes - tl.sum(product, 1)[:, None])


@triton.jit
def read_kernel(
    values,
    slots,
    weights,
    output,
    target,
    gate,
    gated_out,
    loss_out,
    ds_out,
    tokens,
    chunk,
    written,
    output_b,
    output_t,
    target_b,
    target_t,
    gate_b,
    gate_t,
    lookahead,
    count,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    TOPK: tl.constexpr,
    PADDED_READS: tl.constexpr,
    STORE: tl.constexpr,
    TARGET: tl.constexpr,
    GATE: tl.constexpr,
    SLOPE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """v̂ of a block of tokens; with a target also e and the loss g·mean (v̂ − y)².

    SLOPE (no-entropy ablation): also ∂/∂(pair scores) of ½·mean of g·(v̂ − y)² over `count` tokens × features.
    """
    READS: tl.constexpr = HEADS * TOPK
    DTYPE: tl.constexpr = weights.dtype.element_ty
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    live = token < tokens
    reads = tl.arange(0, PADDED_READS)
    real = live[:, None] & (reads < READS)[None, :]
    place = token.to(tl.int64)[:, None] * READS + reads[None, :]
    slot = tl.load(slots + place, real, 0).to(tl.int64)
    w = tl.load(weights + place, real, 0)
    step = token % chunk
    has_target = live & (step < written)
    out_rows = token_rows(output, token, chunk, output_b, output_t)
    target_rows = token_rows(target, token, chunk, target_b, target_t) + lookahead * target_t
    g = tl.full([BLOCK_T], 1.0, DTYPE)
    if GATE:
        g = tl.load(token_rows(gate, token, chunk, gate_b, gate_t), has_target, 0).to(DTYPE)
    loss = tl.full([BLOCK_T], 0, DTYPE)
    slopes = tl.full([BLOCK_T, PADDED_READS], 0, DTYPE)
    for at in range(0, WIDTH, BLOCK_V):
        v = at + tl.arange(0, BLOCK_V)
        wide = v < WIDTH
        cells = live[:, None] & wide[None, :]
        rows = tl.load(
            values + slot[:, :, None] * WIDTH + v[None, None, :], real[:, :, None] & wide[None, None, :], 0
        ).to(DTYPE)
        read = tl.sum(w[:, :, None] * rows, 1)
        if STORE:
            tl.store(out_rows[:, None] + v[None, :], read, cells)
        if TARGET:
            y = tl.load(target_rows[:, None] + v[None, :], has_target[:, None] & wide[None, :], 0).to(DTYPE)
            error = tl.where(has_target[:, None], read - y, 0)
            loss += tl.sum(error * error, 1)
            gated = g[:, None] * error
            tl.store(gated_out + token.to(tl.int64)[:, None] * WIDTH + v[None, :], gated, cells)
            if SLOPE:
                slopes += tl.sum(gated[:, None, :] * rows, 2)
    if TARGET:
        tl.store(loss_out + (token // chunk) * written + step, g * loss / WIDTH, has_target)
        if SLOPE:
            tl.store(ds_out + place, softmax_slope(w, slopes / count, reads, HEADS, TOPK, False), real)


@triton.jit
def sum_of_slot(
    per_token,
    weights,
    order,
    sums,
    begin,
    end,
    v,
    READS: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Σ over the reads begin … end of a block of slots of w·x_t: [U,V]. Adds in the order of the reads.

    WINDOW: those of whole windows are there as `sums` already (`triton_windows`); 0: none are.
    """
    total = tl.full([BLOCK_U, BLOCK_R, BLOCK_V], 0, weights.dtype.element_ty)
    outside = end - begin
    if WINDOW:
        first, windows, before, outside = split_group(begin, end, WINDOW)
        for at in range(0, tl.max(windows, 0), BLOCK_R):
            number = at + tl.arange(0, BLOCK_R)[None, :]
            live = number < windows[:, None]
            rows = (first[:, None] + number).to(tl.int64) * WIDTH
            total += tl.load(
                sums + rows[:, :, None] + v[None, None, :], live[:, :, None] & (v < WIDTH)[None, None, :], 0
            )
    for at in range(0, tl.max(outside, 0), BLOCK_R):
        number = at + tl.arange(0, BLOCK_R)[None, :]
        live = number < outside[:, None]
        here = begin[:, None] + number
        if WINDOW:
            here += tl.where(number < before[:, None], 0, (windows * WINDOW)[:, None])
        read = tl.load(order + here, live, 0)
        w = tl.load(weights + read, live, 0)
        x = tl.load(
            per_token + (read // READS)[:, :, None] * WIDTH + v[None, None, :],
            live[:, :, None] & (v < WIDTH)[None, None, :],
            0,
        )
        total += w[:, :, None] * x
    return tl.sum(total, 1)


@triton.jit
def write_kernel(
    values,
    slots,
    starts,
    order,
    weights,
    gated,
    sums,
    log,
    counts,
    groups,
    read,
    written,
    RATE: tl.constexpr,
    READS: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    WRITE: tl.constexpr,
    LOG: tl.constexpr,
    COUNTS: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """R_u ← R_u − RATE·(read/written)/N_u·Σ w·e in place for a block of slots (program 0) and of features (program 1).

    LOG: keeps the rows as they were. COUNTS: takes N_u from `counts` instead of the reads of the group.
    """
    DTYPE: tl.constexpr = weights.dtype.element_ty
    group = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    known = group < groups
    begin = tl.load(starts + group, known, 0)
    end = tl.load(starts + group + 1, known, 0)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    cells = (end > begin)[:, None] & (v < WIDTH)[None, :]
    places = values + tl.load(slots + group, known, 0)[:, None] * WIDTH + v[None, :]
    old = tl.load(places, cells, 0)
    if LOG:
        tl.store(log + group.to(tl.int64)[:, None] * WIDTH + v[None, :], old, cells)
    if WRITE:
        total = sum_of_slot(gated, weights, order, sums, begin, end, v, READS, WIDTH, WINDOW, BLOCK_U, BLOCK_R, BLOCK_V)
        if COUNTS:
            count = tl.load(counts + group, known, 1)
        else:
            count = tl.maximum(end - begin, 1)
        tl.store(places, old - (RATE / count.to(DTYPE) * read / written)[:, None] * total, cells)
