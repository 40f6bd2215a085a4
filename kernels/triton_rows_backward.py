"""The gradient of reads and writes of V's rows in Triton (forms as in `triton_rows`).

With D_u the factor of slot u's write and X the gradient of the written rows:

    de_t = −Σ_r D_r·w_tr·X_r      dw_tr = −D_r·⟨e_t, X_r⟩ + ⟨dv̂_t, R_r⟩      dR_u = X_u + Σ_{t,r: slot u} w_tr·dv̂_t
"""

from __future__ import annotations

import triton
import triton.language as tl

from fwpkm_eval.kernels.triton_rows import softmax_slope, sum_of_slot
from fwpkm_eval.kernels.triton_topk import token_rows


@triton.jit
def read_backward_kernel(
    rows_table,
    positions,
    weights,
    d_written,
    places,
    starts,
    output,
    d_output,
    target,
    gate,
    halves,
    first,
    second,
    ds_out,
    d_read_out,
    d_target,
    d_gate,
    gated_out,
    d_slope_out,
    tokens,
    chunk,
    written,
    output_b,
    output_t,
    d_output_b,
    d_output_t,
    target_b,
    target_t,
    gate_b,
    gate_t,
    d_target_b,
    d_target_t,
    d_gate_b,
    d_gate_t,
    lookahead,
    count,
    RATE: tl.constexpr,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    TOPK: tl.constexpr,
    PADDED_READS: tl.constexpr,
    D_OUTPUT: tl.constexpr,
    WRITE: tl.constexpr,
    GATE: tl.constexpr,
    SLOPE: tl.constexpr,
    PER_HEAD: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """The gradient of a block of tokens' reads and, if they were written (WRITE), of their errors.

    Gives ∂/∂(pair scores), the gradient d_read of v̂, of target and of gate. SLOPE: the no-entropy ablation, where
    the pair scores' slope moved the keys; `halves` [H,2,n,k] is what that step sends back to it.
    """
    READS: tl.constexpr = HEADS * TOPK
    DTYPE: tl.constexpr = weights.dtype.element_ty
    token = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    live = token < tokens
    reads = tl.arange(0, PADDED_READS)
    real = live[:, None] & (reads < READS)[None, :]
    place = token.to(tl.int64)[:, None] * READS + reads[None, :]
    position = tl.load(positions + place, real, 0).to(tl.int64)
    w = tl.load(weights + place, real, 0)
    step = token % chunk
    has_target = live & (step < written)
    d_weights = tl.full([BLOCK_T, PADDED_READS], 0, DTYPE)
    if WRITE:
        where = tl.load(places + position, real, 0)
        reads_of_slot = tl.load(starts + position + 1, real, 1) - tl.load(starts + position, real, 0)
        share = RATE / reads_of_slot.to(DTYPE) * chunk / written
        out_rows = token_rows(output, token, chunk, output_b, output_t)
        target_rows = token_rows(target, token, chunk, target_b, target_t) + lookahead * target_t
        d_target_rows = token_rows(d_target, token, chunk, d_target_b, d_target_t) + lookahead * d_target_t
        g = tl.full([BLOCK_T], 1.0, DTYPE)
        if GATE:
            g = tl.load(token_rows(gate, token, chunk, gate_b, gate_t), has_target, 0).to(DTYPE)
        d_g = tl.full([BLOCK_T], 0, DTYPE)
    if SLOPE:
        head = reads // TOPK
        pair = (head[None, :] * tokens + token[:, None]).to(tl.int64) * TOPK + (reads % TOPK)[None, :]
        upper = ((2 * head)[None, :] * tokens + token[:, None]).to(tl.int64) * TOPK
        lower = ((2 * head + 1)[None, :] * tokens + token[:, None]).to(tl.int64) * TOPK
        pull = tl.load(halves + upper + tl.load(first + pair, real, 0), real, 0)
        pull += tl.load(halves + lower + tl.load(second + pair, real, 0), real, 0)
        mean_pull = tl.sum(w * pull, 1)[:, None]
        d_slope = w * (pull - mean_pull) / count
        tl.store(d_slope_out + place, d_slope, real)
        slopes = tl.full([BLOCK_T, PADDED_READS], 0, DTYPE)
    for at in range(0, WIDTH, BLOCK_V):
        v = at + tl.arange(0, BLOCK_V)
        wide = v < WIDTH
        cells = live[:, None] & wide[None, :]
        boxes = real[:, :, None] & wide[None, None, :]
        rows = tl.load(rows_table + position[:, :, None] * WIDTH + v[None, None, :], boxes, 0).to(DTYPE)
        d_read = tl.full([BLOCK_T, BLOCK_V], 0, DTYPE)
        if D_OUTPUT:
            d_rows = token_rows(d_output, token, chunk, d_output_b, d_output_t)
            d_read = tl.load(d_rows[:, None] + v[None, :], cells, 0).to(DTYPE)
        if WRITE:
            aimed = has_target[:, None] & wide[None, :]
            after = tl.load(d_written + where[:, :, None] * WIDTH + v[None, None, :], boxes, 0)
            error = tl.load(out_rows[:, None] + v[None, :], aimed, 0)
            error -= tl.load(target_rows[:, None] + v[None, :], aimed, 0).to(DTYPE)
            gated = g[:, None] * error
            d_gated = -tl.sum((share * w)[:, :, None] * after, 1)
            d_weights -= share * tl.sum(gated[:, None, :] * after, 2)
            if SLOPE:
                d_gated += tl.sum(d_slope[:, :, None] * rows, 1)
                slopes += tl.sum(gated[:, None, :] * rows, 2)
                tl.store(gated_out + token.to(tl.int64)[:, None] * WIDTH + v[None, :], gated, cells)
            d_g += tl.sum(d_gated * error, 1)
            d_error = tl.where(has_target[:, None], g[:, None] * d_gated, 0)
            tl.store(d_target_rows[:, None] + v[None, :], -d_error, aimed)
            d_read += d_error
        tl.store(d_read_out + token.to(tl.int64)[:, None] * WIDTH + v[None, :], d_read, cells)
        d_weights += tl.sum(d_read[:, None, :] * rows, 2)
    if WRITE and GATE:
        tl.store(token_rows(d_gate, token, chunk, d_gate_b, d_gate_t), d_g, has_target)
    if SLOPE:
        slopes = slopes / count
        d_weights += pull * (slopes - tl.sum(w * slopes, 1)[:, None]) - mean_pull * slopes
    tl.store(ds_out + place, softmax_slope(w, d_weights, reads, HEADS, TOPK, PER_HEAD), real)


@triton.jit
def add_rows_kernel(
    table,
    places,
    starts,
    order,
    weights,
    per_token,
    sums,
    more_weights,
    more_per_token,
    more_sums,
    groups,
    READS: tl.constexpr,
    WIDTH: tl.constexpr,
    WINDOW: tl.constexpr,
    MORE: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """table[places[u]] += Σ over the reads of slot u of w·x (and of a second w·x), in place."""
    group = tl.program_id(0) * BLOCK_U + tl.arange(0, BLOCK_U)
    known = group < groups
    begin = tl.load(starts + group, known, 0)
    end = tl.load(starts + group + 1, known, 0)
    v = tl.program_id(1) * BLOCK_V + tl.arange(0, BLOCK_V)
    cells = (end > begin)[:, None] & (v < WIDTH)[None, :]
    rows = table + tl.load(places + group, known, 0)[:, None] * WIDTH + v[None, :]
    total = tl.load(rows, cells, 0).to(weights.dtype.element_ty)
    total += sum_of_slot(
        per_token, weights, order, sums, begin, end, v, READS, WIDTH, WINDOW, BLOCK_U, BLOCK_R, BLOCK_V
    )
    if MORE:
        total += sum_of_slot(
            more_per_token,
            more_weights,
            order,
            more_sums,
            begin,
            end,
            v,
            READS,
            WIDTH,
            WINDOW,
            BLOCK_U,
            BLOCK_R,
            BLOCK_V,
        )
    tl.store(rows, total.to(table.dtype.element_ty), cells)
